"""The command line `dreamforge`."""
