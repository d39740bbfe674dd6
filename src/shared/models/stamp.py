"""The stamp of a model's folder: it changes with every change of a file, and is cheap to read."""

from pathlib import Path

from shared.errors import ModelUnavailable

# One entry a file: name, inode, size, modified, changed (its name or its mode).
Stamp = tuple[tuple[str, int, int, int, int], ...]


def stamp_of(folder: Path) -> Stamp:
    """A value that changes with every change of the folder. Raises `ModelUnavailable`."""
    try:
        paths = [folder, *sorted(folder.rglob("*"))]
        stats = [(path, path.lstat()) for path in paths]
    except OSError as error:
        raise ModelUnavailable(f"the model's folder: {error.strerror}") from error
    return tuple(
        (str(path), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in stats
    )
