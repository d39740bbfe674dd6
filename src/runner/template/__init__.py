"""A process that has imported what a runner imports, and forks runners."""
