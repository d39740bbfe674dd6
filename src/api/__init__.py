"""The HTTP service: it takes jobs in, shows what becomes of them, and streams their events."""
