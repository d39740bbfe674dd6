"""The log's format, spans, and what sends them to a collector."""
