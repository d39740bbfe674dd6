"""A file or a folder of this host as a source, for `dreamforge model import`.

Each file is hashed here and verified after the copy, so a change in between is noticed.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cli.download.file_selection import select_files
from cli.download.source import RemoteFile, ResolvedModel, to_model_name
from cli.errors import Failure
from cli.terminal.output import print_note
from shared.models.folder import DESCRIPTOR, ONE_FILE, hash_file


def resolve_local(path: Path, *, keep: Callable[[str], bool] = lambda name: True) -> ResolvedModel:
    """The files of a folder that a model needs and `keep` accepts; or one file.

    Raises `Failure`.
    """
    place = path.absolute()
    print_note(f"reading {place}")
    skipped: list[str] = []
    if place.is_dir():
        chosen, skipped = select_files(_names(place), (), ())
        files = tuple(_remote_file(place, name, name) for name in chosen if keep(name))
        name = place.name
    elif place.suffix.lower() == ".safetensors":
        files = (_remote_file(place.parent, place.name, ONE_FILE),)
        name = place.stem
    else:
        raise Failure(f"{path}: a model is a folder, or one safetensors file")
    digest = hashlib.sha256("".join(f"{f.sha256}  {f.path}\n" for f in files).encode()).hexdigest()
    return ResolvedModel(
        name=to_model_name(name.partition("@")[0]),
        version=digest[:12],
        uri=f"import:{place.name}",  # without the folder above it, which is private
        revision=digest,
        files=files,
        skipped=tuple(skipped),
        local=True,
    )


def _names(folder: Path) -> list[str]:
    """Every file below `folder`, except hidden ones of version control, caches and desktops."""
    names = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [
            Path(parent, name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".")
        ]
    return [name for name in names if name != DESCRIPTOR]


def _remote_file(folder: Path, name: str, path: str) -> RemoteFile:
    file = folder / name
    if path != ONE_FILE and file.is_symlink():
        raise Failure(
            f"{name}: a link, which may point at anything of this host",
            hint=f"copy what the links point at first: cp -rL {folder} FOLDER",
        )
    if not file.is_file():
        raise Failure(f"{name}: not a regular file")
    return RemoteFile(
        path=path, url=file.as_uri(), size_bytes=file.stat().st_size, sha256=hash_file(file)
    )
