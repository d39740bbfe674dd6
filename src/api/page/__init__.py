"""The page at `/`: static files that use the API like every other client."""
