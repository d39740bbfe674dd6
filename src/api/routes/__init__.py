"""The operations that clients call, one file per subject."""
