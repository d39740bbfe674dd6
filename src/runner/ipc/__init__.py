"""The pipe between runner and worker: messages, and the pictures that a step starts from."""
