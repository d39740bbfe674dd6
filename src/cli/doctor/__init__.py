"""Check the machine and the stack, and say what to do about each finding."""
