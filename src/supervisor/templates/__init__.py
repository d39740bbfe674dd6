"""Processes that fork runners, and what they keep warm."""
