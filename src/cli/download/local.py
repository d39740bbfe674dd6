"""A file or a folder of this host as a source, for `dreamforge model import`.

Each file is hashed here and verified after the copy, so a change in between is noticed. To hash a
large file takes minutes, so everything that can be known without is checked before: names, sizes,
headers and the room on the disk.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cli.download.file_selection import select_files
from cli.download.source import RemoteFile, ResolvedModel, to_model_name
from cli.errors import Failure
from cli.models.store import check_free_space
from cli.terminal.output import print_note
from shared.errors import ModelUnavailable
from shared.models.folder import (
    CONFIGS_OF_MODELS,
    DESCRIPTOR,
    ONE_FILE,
    OPTIONAL,
    WEIGHTS,
    check_extent,
    check_name,
    check_size,
    hash_file,
)
from shared.models.json_files import read_json
from shared.models.verify import read_descriptor
from shared.models.weights_file import weights_shapes


def resolve_local(
    path: Path, root: Path, *, keep: Callable[[str], bool] = lambda name: True
) -> ResolvedModel:
    """The files of a folder that a model needs and `keep` accepts; or one file.

    `root` is where the model will be installed. Raises `Failure`, and `ModelUnavailable` for a file
    that no model can have.
    """
    place = path.absolute()
    folder, names, skipped = _list(place, keep)
    uri = f"import:{_in_utf8(place.name)}"  # without the folder above it, which is private
    sizes = {path: _checked_size(folder, name, path) for path, name in names.items()}
    if not _is_installed(root, uri, sizes):
        check_free_space(root, sum(sizes.values()))
    print_note(f"reading {_in_utf8(str(place))}")
    files = tuple(
        RemoteFile(
            path=path,
            url=(folder / name).as_uri(),
            size_bytes=sizes[path],
            sha256=hash_file(folder / name),
        )
        for path, name in names.items()
    )
    digest = hashlib.sha256("".join(f"{f.sha256}  {f.path}\n" for f in files).encode()).hexdigest()
    stem = place.name if place.is_dir() else place.stem
    return ResolvedModel(
        name=to_model_name(stem.partition("@")[0]),
        version=digest[:12],
        uri=uri,
        revision=digest,
        files=files,
        skipped=tuple(skipped),
        local=True,
    )


def _list(place: Path, keep: Callable[[str], bool]) -> tuple[Path, dict[str, str], list[str]]:
    """The folder, the names of its files by their place in a model, and what is left out."""
    if place.is_dir():
        chosen, skipped = select_files(_names(place), (), ())
        names = [name for name in chosen if keep(name)]
        broken = {name for part in OPTIONAL for name in _unusable(place, part, names)}
        kept = {name: name for name in names if name not in broken}
        return place, kept, sorted({*skipped, *broken})
    if place.suffix.lower() == ".safetensors":
        return place.parent, {ONE_FILE: place.name}, []
    check_name(place.name)  # says of a pickle why it is refused, of a GGUF file where it belongs
    raise Failure(f"{_in_utf8(str(place))}: a model is a folder, or one safetensors file")


def _unusable(folder: Path, part: str, names: list[str]) -> list[str]:
    """The files of an optional part that cannot be loaded: a model draws without it."""
    inside = [name for name in names if name.startswith(f"{part}/")]
    try:
        for name in inside:
            if name.endswith(WEIGHTS):
                weights_shapes(folder, name)
            elif name == f"{part}/{CONFIGS_OF_MODELS}":
                read_json(folder, name)
    except (ModelUnavailable, OSError) as error:
        print_note(f"{part} is left out: {error}")
        return inside
    return []


def _names(folder: Path) -> list[str]:
    """Every file below `folder`, except hidden ones of version control, caches and desktops."""
    names: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        check_extent(folder, parent, len(names) + len(files))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _refuse_link(folder, Path(parent, name))
        names += [
            Path(parent, name).relative_to(folder).as_posix()
            for name in files
            if not name.startswith(".")
        ]
    return [name for name in names if name != DESCRIPTOR]


def _raise(error: OSError) -> None:
    """Else a folder that we may not read would count as empty."""
    raise error


def _checked_size(folder: Path, name: str, path: str) -> int:
    """The size in bytes of a file that can be at `path` of a model."""
    file = folder / name
    if path != ONE_FILE:
        _refuse_link(folder, file)
    if not file.is_file():
        raise Failure(f"{_in_utf8(name)}: not a regular file")
    size_bytes = file.stat().st_size
    check_size(path, size_bytes)
    if name.lower().endswith(WEIGHTS):
        weights_shapes(folder, name)
    return size_bytes


def _refuse_link(folder: Path, path: Path) -> None:
    if path.is_symlink():
        raise Failure(
            f"{path.relative_to(folder).as_posix()}: a link, which may point at anything of this "
            "host",
            hint=f"copy what the links point at first: cp -rL {folder} FOLDER",
        )


def _is_installed(root: Path, uri: str, sizes: dict[str, int]) -> bool:
    """Whether a model of this name and these sizes is here, which needs no room then."""
    for descriptor in root.glob(f"[!.]*/*@*/{DESCRIPTOR}"):
        try:
            model = read_descriptor(descriptor.parent)
        except ModelUnavailable:
            continue
        here = {file.path: file.size_bytes for file in model.files}
        if model.source.uri == uri and sizes.items() <= here.items():
            return True
    return False


def _in_utf8(name: str) -> str:
    """A name of a file as text; bytes that are no UTF-8 are written out (`\\xe9`)."""
    return os.fsencode(name).decode(errors="backslashreplace")
