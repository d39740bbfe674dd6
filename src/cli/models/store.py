"""The models folder of this host, changed whole or not at all.

    <root>/<kind>/<name>@<version>/   what runners load
    <root>/.staging/                  what is being brought in; same file system, so renames work
    <root>/.locks/                    one file per model, held with flock; the kernel frees it

A folder is written in full below `.staging`, synced, and changes places with the one that is there
in one system call. A kill at any moment leaves the old model or the new one. What a killed command
left below `.staging` is removed by the next one that wants the same model.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import Failure
from shared.models.descriptor import ModelDescriptor
from shared.models.folder import DESCRIPTOR
from shared.models.verify import write_descriptor

STAGING = ".staging"
SPARE_BYTES = 256 << 20  # left free on the disk: others write there too
LOCKS = ".locks"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def lock_model(root: Path, key: str) -> Iterator[None]:
    """Wait until nobody else on this host changes the model `key`, then keep others out."""
    folder = root / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def staging_path(root: Path, key: str) -> Path:
    """Where `key` is put together. Touch it with the lock held only."""
    place = root / STAGING / key
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def check_free_space(place: Path, more_bytes: int) -> None:
    """Refuse to fill the disk that `place` is on. Raises `Failure`."""
    folder = place if place.is_dir() else place.parent
    free = shutil.disk_usage(folder).free
    if more_bytes + SPARE_BYTES > free:
        raise Failure(
            f"{more_bytes / 1e9:.1f} GB to come, {free / 1e9:.1f} GB free at {folder}",
            hint="make room, or set DF_MODELS_DIR to a larger disk",
        )


def install_atomic(draft: Path, place: Path) -> None:
    """Make the folder `draft` the model at `place`; what was there before is gone."""
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
    """Remove a model's folder; False when it is not there. It never lies there half empty."""
    if not place.exists():
        return False
    tombstone = staging_path(root, f"{place.name}.removed")
    shutil.rmtree(tombstone, ignore_errors=True)  # of a command that was killed
    place.rename(tombstone)
    _sync(place.parent)
    shutil.rmtree(tombstone)
    return True


def remove_other_kinds(place: Path, root: Path) -> None:
    """Take away the model of this name and version that was taken for another kind."""
    for other in root.glob(f"[!.]*/{place.name}"):
        if other != place:
            remove_model(other, root)


def replace_descriptor(place: Path, descriptor: ModelDescriptor, root: Path) -> None:
    """Give an installed model another description; a kill leaves the old one or the new one."""
    draft = staging_path(root, f"{place.name}.description")
    shutil.rmtree(draft, ignore_errors=True)  # of a command that was killed
    draft.mkdir()
    write_descriptor(draft, descriptor)
    _sync(draft / DESCRIPTOR)
    (draft / DESCRIPTOR).replace(place / DESCRIPTOR)
    draft.rmdir()
    _sync(place)


def _exchange(one: Path, other: Path) -> None:
    """Swap two names at once, which `os.rename` cannot do with folders that hold files."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        code = ctypes.get_errno()
        why = os.strerror(code)
        if code in (errno.EINVAL, errno.ENOSYS):
            why = "this file system cannot swap folders; remove the model first"
        raise OSError(code, why, str(other))


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
