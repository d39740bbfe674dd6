"""The process that runs one step: torch and diffusers are imported here only."""
