"""Says how an execution ended, and why."""
