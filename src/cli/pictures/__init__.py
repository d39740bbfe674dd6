"""Read how a picture was made, and make it again."""
