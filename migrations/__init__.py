"""Alembic migrations: additive, and safe to run beside the previous release's processes."""
