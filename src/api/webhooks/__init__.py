"""Calls out: what jobs tell their receivers, signed, repeated, and only to where they may go."""
