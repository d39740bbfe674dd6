"""Pictures that clients send: the form, the head of the file, and its way into the store."""
