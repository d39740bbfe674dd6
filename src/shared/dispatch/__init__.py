"""What api and supervisor must agree on to use the broker."""
