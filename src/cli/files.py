"""Errors of files and disks, by name: the kernel's own names neither where a write failed."""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the file's name into an `OSError` that has none, as that of a write has not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def describe_error(error: OSError) -> str:
    """One line: the file, what is wrong, and of a full disk which one it is."""
    name = error.filename
    if error.errno in _FULL and error.filename2 is not None:  # a copy names what it reads first
        name = error.filename2
    if not isinstance(name, str | bytes | os.PathLike):  # a descriptor's number, or nothing
        return str(error)
    line = f"{os.fsdecode(name)}: {error.strerror}"
    if error.errno not in _FULL:
        return line
    disk = disk_of(Path(os.fsdecode(name)))
    free_bytes = shutil.disk_usage(disk).free
    return f"{line}; the disk at {disk} has {free_bytes / 1e6:.0f} MB free, for this user"


def copy_files(folder: Path, to: Path, names: Iterable[str]) -> None:
    """Copy these files of a folder. The first that cannot be read or written ends it, by name."""
    for name in names:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with named(target):
            shutil.copy2(folder / name, target)


def disk_of(path: Path) -> Path:
    """Where the disk of this path, or of the nearest folder that is there, is mounted."""
    place = path.absolute()
    while not place.is_mount() and place != place.parent:
        place = place.parent
    return place
