"""What others may do with the files that we make, whatever the process was started with."""

import os


def forbid_writing_by_others() -> None:
    """Add group and others' write to the umask: our files are weights, logs and settings.

    A umask of 000, as some containers and service managers have it, would let every user of the
    host replace a model. Whoever sets a stricter one keeps it. Children inherit it.
    """
    os.umask(os.umask(0o077) | 0o022)
