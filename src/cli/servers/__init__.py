"""The servers that come as packages: PostgreSQL, broker, object store."""
