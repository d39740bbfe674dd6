"""Run PostgreSQL, broker, store, api and worker on this machine, and leave no process behind."""
