"""Keep models on this host: install, register, remove, and wait for a worker to offer one."""
