"""What every worker does beside its own steps: rescue lost steps, prune old data."""
