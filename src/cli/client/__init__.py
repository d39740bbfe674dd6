"""Speak to the HTTP API: create jobs, follow them, save what they made."""
