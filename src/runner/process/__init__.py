"""What a runner does with its own process: stop, end with its lease, give memory back."""
