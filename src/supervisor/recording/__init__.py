"""Records what happens to a step: events, progress and times."""
