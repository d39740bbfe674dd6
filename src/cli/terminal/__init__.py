"""Print results, notes and progress."""
