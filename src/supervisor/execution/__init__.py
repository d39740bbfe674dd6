"""Carries a claimed step from its slot to its verdict."""
