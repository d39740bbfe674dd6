"""One model's folder, for as long as it is being loaded.

A pipeline opens its files one by one, by their path, and `dreamforge model` may exchange the folder
at that path for another one at any moment (`cli.models.store.put`). So a check before the load says
nothing about the files that were opened after it, and half a pipeline could be of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner.process.cancellation import Cancelled
from shared.errors import ModelUnavailable


@contextmanager
def guard_unchanged(folder: Path) -> Iterator[None]:
    """Check and load the model inside; `ModelUnavailable` if another folder took its place.

    What failed because of that is not worth telling: a file that is not there any more, a tensor of
    another shape.
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
    """By what a folder is known whatever its name is; None when there is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _moved() -> ModelUnavailable:
    return ModelUnavailable("the model was replaced or removed while it was being loaded")
