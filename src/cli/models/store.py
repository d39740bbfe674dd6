"""The models folder of this host, changed whole or not at all.

    <root>/<kind>/<name>@<version>/   what runners load
    <root>/.staging/                  models that are incomplete; same file system, for renames
    <root>/.locks/                    one file per model, held with flock; the kernel frees it

A folder is written in full below `.staging`, synced, and exchanged with the existing one in one
system call. A kill at any moment leaves the old model or the new one. The next command for the same
model removes what a killed one left below `.staging`.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import Failure
from cli.files import named
from shared.errors import ModelUnavailable
from shared.models.descriptor import Descriptor
from shared.models.folder import DESCRIPTOR
from shared.models.verify import read_descriptor, verify_model, write_descriptor

STAGING = ".staging"
SPARE_BYTES = 256 << 20  # left free, since other programs write to the disk too
LOCKS = ".locks"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def lock_model(root: Path, key: str) -> Iterator[None]:
    """Hold the lock of the model `key`; waits for the process on this host that has it."""
    folder = root / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key}.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def staging_path(root: Path, key: str) -> Path:
    """A place for `key` while it is incomplete. The caller holds the model's lock."""
    place = root / STAGING / key
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def check_free_space(place: Path, more_bytes: int) -> None:
    """Refuse to fill the disk that `place` is on. Raises `Failure`."""
    folder = next(each for each in (place, *place.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(folder).free
    if more_bytes + SPARE_BYTES > free:
        raise Failure(
            f"{more_bytes / 1e9:.1f} GB to come, {free / 1e9:.1f} GB free at {folder}",
            hint="make room, or set DF_MODELS_DIR to a larger disk",
        )


def install_atomic(draft: Path, place: Path) -> None:
    """Make the folder `draft` the model at `place`, and delete the one that was there."""
    if place.is_symlink():
        raise OSError(errno.EEXIST, "a link is in the model's place; take it away first", place)
    place.parent.mkdir(parents=True, exist_ok=True)
    _sync_tree(draft)
    if place.exists():
        _exchange(draft, place)
        shutil.rmtree(draft)
    else:
        draft.rename(place)
    _sync(place.parent)


def remove_model(place: Path, root: Path) -> bool:
    """Remove a model's folder at once, never file by file; False when there is none."""
    if not place.exists():
        return False
    tombstone = staging_path(root, f"{place.name}.removed")
    shutil.rmtree(tombstone, ignore_errors=True)  # of a command that was killed
    place.rename(tombstone)
    _sync(place.parent)
    shutil.rmtree(tombstone)
    return True


def remove_other_kinds(place: Path, root: Path) -> None:
    """Remove the same name and version of another kind, left by an install with another --kind."""
    for other in root.glob(f"[!.]*/{place.name}"):
        if other != place:
            remove_model(other, root)


def replace_descriptor(place: Path, descriptor: Descriptor, root: Path) -> None:
    """Replace an installed model's descriptor; a kill leaves the old one or the new one."""
    draft = staging_path(root, f"{place.name}.description")
    shutil.rmtree(draft, ignore_errors=True)  # of a command that was killed
    draft.mkdir()
    with named(draft / DESCRIPTOR):
        write_descriptor(draft, descriptor)
    _sync(draft / DESCRIPTOR)
    (draft / DESCRIPTOR).replace(place / DESCRIPTOR)
    draft.rmdir()
    _sync(place)


def read_intact(place: Path, accept: Callable[[Descriptor], bool]) -> Descriptor | None:
    """The descriptor of an installed model that `accept` likes and whose every byte is right."""
    try:
        descriptor = read_descriptor(place)
        if not accept(descriptor):
            return None
        verify_model(place, descriptor)
    except ModelUnavailable:
        return None
    return descriptor


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one system call; `os.rename` cannot replace a folder with files."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        why = os.strerror(code)
        if code in (errno.EINVAL, errno.ENOSYS):
            why = "this file system cannot swap folders; remove the model first"
        raise OSError(code, why, str(other))


def _sync_tree(folder: Path) -> None:
    """Write everything to the disk; nobody but the owner may write to it, whatever the umask is."""
    for parent, _, names in os.walk(folder):
        for path in (*(Path(parent, name) for name in names), Path(parent)):
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
            _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
