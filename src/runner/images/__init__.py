"""From a finished picture to the bytes of its file, with what it says about its making."""
