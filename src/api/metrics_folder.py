"""The folder in which several api processes count for `/metrics`, and what dead ones left.

Each process of an api holds a shared lock on the folder, which the kernel releases however the
process ends. So a folder that can be locked exclusively belongs to none that lives, and the next
api that starts removes it. Between its making and its lock a folder looks like such a one: its
maker looks whether it is still there, and else makes another.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

# Not dreamforge-api-: an api of 0.2 may live, and does not lock the one that it has.
_PREFIX = "dreamforge-metrics-"


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """A folder of this api, with its lock held; it is removed at the end."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = _locked_folder()
    try:
        yield folder
    finally:
        if folder.exists():  # hosts delete old files of /tmp
            shutil.rmtree(folder)


def hold(folder: Path) -> bool:
    """Keep the folder for as long as this process lives. False: it is gone.

    The lock may not be passed on: a program that a process starts would hold it, too.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    fcntl.flock(fd, fcntl.LOCK_SH)
    if folder.exists():
        return True
    os.close(fd)
    return False


def _locked_folder() -> Path:
    while not hold(folder := Path(tempfile.mkdtemp(prefix=_PREFIX))):
        continue  # another api that starts took it for an abandoned one
    return folder


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            _remove_if_abandoned(folder)
        except FileNotFoundError:  # another api was faster
            continue
        except OSError as error:
            log.warning("api: %s cannot be removed: %s", folder, error.strerror)


def _remove_if_abandoned(folder: Path) -> None:
    if folder.lstat().st_uid != os.geteuid():
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:  # a process of it lives
        return
    finally:
        os.close(fd)
