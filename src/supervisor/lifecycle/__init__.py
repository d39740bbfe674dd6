"""The state machine of a step: a table, and the function that applies it."""
