"""Puts finished files into a folder, and replaces none that is there."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def draft_of(name: str, folder: Path) -> Iterator[Path]:
    """A path for a file that is not complete, on the disk of `folder`; it is gone afterwards.

    No other process has the same one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".part-") as work:
        yield Path(work, name)


def place(draft: Path, folder: Path) -> Path:
    """Move a complete file to `folder`, under its name or the next one that is free (`-2`, `-3`).

    Returns the file that has the bytes: one that was there already, if it is the same.
    """
    for number in count(1):
        path = folder / (draft.name if number == 1 else f"{draft.stem}-{number}{draft.suffix}")
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            if path.is_file() and filecmp.cmp(draft, path, shallow=False):
                break
        else:
            draft.replace(path)
            break
    return path
