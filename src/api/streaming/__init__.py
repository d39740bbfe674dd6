"""A job's events on their way to clients: as a stream, as a log, as progress, as its end."""
