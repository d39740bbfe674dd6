"""What supervisor and runner tell each other: messages, in length-prefixed frames."""
