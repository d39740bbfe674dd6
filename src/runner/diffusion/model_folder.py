"""Guard a model's folder while it is loaded.

A pipeline opens its files one by one, by their path, and `dreamforge model` may exchange the folder
at that path for another one at any moment (`cli.models.store.put`). So a check before the load says
nothing about the files that were opened after it, and half a pipeline could be of each.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.process.cancellation import Cancelled
from shared.errors import ModelUnavailable


@contextmanager
def guard_unchanged(folder: Path) -> Iterator[None]:
    """Check and load the model inside; `ModelUnavailable` if another folder took its place.

    An error that follows from that (a missing file, a tensor of another shape) is replaced by it.
    """
    before = _identity(folder)
    try:
        yield
    except Cancelled:
        raise
    except Exception as error:
        if _identity(folder) == before:
            raise
        raise _moved() from error
    if _identity(folder) != before:
        raise _moved()


def _identity(folder: Path) -> tuple[int, int] | None:
    """What identifies a folder besides its name; None when there is none."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _moved() -> ModelUnavailable:
    return ModelUnavailable("the model was replaced or removed while it was being loaded")
