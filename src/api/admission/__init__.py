"""Whether and how a requested job becomes a planned job in the database."""
