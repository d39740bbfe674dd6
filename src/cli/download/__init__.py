"""Download models from elsewhere. Only the command line does that; no service ever downloads."""
