"""The Celery edge: messages from the broker become notifications or dead letters."""
