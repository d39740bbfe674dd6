"""The commands, a module per group: they read options, call a room, print results."""
