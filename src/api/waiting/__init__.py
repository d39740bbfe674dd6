"""When a job that waits will start."""
