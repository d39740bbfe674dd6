"""A file or a folder of this host, as a source: what `dreamforge model import` takes.

What it holds is hashed when it is looked at, so that what is installed is what was looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from cli.download.source import RemoteFile, Resolved, plain_name
from cli.failures import Failure
from shared.model_files import ONE_FILE, hash_file, list_files


def resolve_path(path: Path, *, keep: Callable[[str], bool] = lambda name: True) -> Resolved:
    """The files of a folder that `keep` wants, or one file.

    Raises `Failure`, or `ModelUnavailable` for a file that is not accepted.
    """
    place = path.absolute()
    if place.is_dir():
        files = tuple(_file(place / name, name) for name in list_files(place) if keep(name))
        name = place.name
    elif place.suffix == ".safetensors":
        files = (_file(place, ONE_FILE),)
        name = place.stem
    else:
        raise Failure(f"{path}: a model is a folder, or one safetensors file")
    digest = hashlib.sha256("".join(f"{f.sha256}  {f.path}\n" for f in files).encode()).hexdigest()
    return Resolved(
        name=plain_name(name.partition("@")[0]),
        version=digest[:12],
        uri=f"import:{place.name}",  # where it lay on this host is nobody else's business
        revision=digest,
        files=files,
        local=True,
    )


def _file(path: Path, name: str) -> RemoteFile:
    return RemoteFile(
        path=name, url=path.as_uri(), size_bytes=path.stat().st_size, sha256=hash_file(path)
    )
