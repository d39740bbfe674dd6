"""The worker of a host: it claims steps, runs each in a process of its own, and reports."""
