"""Bringing models in from elsewhere. Only the command line does that; no service ever downloads."""
