"""What clients send and get: bodies, queries, answers, ids and cursors."""
