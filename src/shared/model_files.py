"""Files of a model folder, read without trusting them.

A model is other people's data. Allowed are safetensors and plain configuration; pickles run code
when they are loaded, so their suffixes are refused by name, with the reason, and everything else
that is not on the list is refused too. Reading a safetensors header is enough to tell a truncated
download, a sign-in page saved as a model, or a file made to exhaust memory.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from shared.errors import ModelUnavailable

DESCRIPTOR = "dreamforge.json"
INDEX = "model_index.json"
# Of a single-file model: a diffusers folder without weights, from which its parts are configured.
CONFIG = "config/"
ONE_FILE = "model.safetensors"  # the weights of a network that is no pipeline
Layout = Literal["diffusers", "single_file", "network"]
# .model: SentencePiece. Pictures belong to a model card; nothing here ever decodes them.
ALLOWED = frozenset({".safetensors", ".json", ".txt", ".md", ".model", ".png", ".jpg"})
ALLOWED_NAMES = frozenset({"LICENSE", "NOTICE", "README"})
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".pyc"})

# diffusers imports the module that an index names. These are its own; any other is code by stealth.
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})
# Often named by an index and not shipped; the runner loads without it.
OPTIONAL = frozenset({"safety_checker"})
CONFIGS_OF_MODELS = "config.json"  # schedulers, tokenizers and processors call theirs otherwise

# The format allows 100 MB. The largest header in use (a text encoder in many shards) is under
# 1 MiB, and parsing one takes some ten times its size in memory.
MAX_HEADER_BYTES = 16 << 20
HASH_CHUNK_BYTES = 1 << 20


def check_folder(folder: Path) -> list[str]:
    """Refuse a folder that must not or cannot be loaded; return its files, sorted."""
    files = list_files(folder)
    match layout_of(files):
        case "diffusers":
            _check_index(folder, files, base="")
        case "single_file":
            _check_single_file(files)
            _check_index(folder, files, base=CONFIG)
        case "network":
            pass  # it has no parts; what it is, its tensors say
    for name in files:
        if name.endswith(".safetensors"):
            check_safetensors(folder, name)
    return files


def layout_of(files: list[str]) -> Layout:
    """How the weights lie: a part each in its folder, all in one file beside `config/`, or alone
    in the one file of a network that needs no other part."""
    if INDEX in files:
        return "diffusers"
    if f"{CONFIG}{INDEX}" in files:
        return "single_file"
    weights = [name for name in files if name.endswith(".safetensors")]
    return "network" if weights == [ONE_FILE] else "diffusers"


def list_files(folder: Path) -> list[str]:
    """Every file but the descriptor, relative, sorted; `ModelUnavailable` names a bad one."""
    if not folder.is_dir():
        raise ModelUnavailable("the model's folder is missing on this host")
    root = folder.resolve()
    paths = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.resolve().is_relative_to(root):
            raise ModelUnavailable(f"{name}: a link that leaves the model's folder", file=name)
        if path.is_dir() or name == DESCRIPTOR:
            continue
        _allow(path, name)
        paths.append(name)
    return sorted(paths)


def check_name(name: str) -> None:
    """Refuse a file by its name alone; `ModelUnavailable` says why."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ModelUnavailable(f"{name!r}: a path that leaves the model's folder", file=name)
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        raise ModelUnavailable(
            f"{name}: a pickle, which can run any code when it is loaded; "
            "only safetensors files are accepted",
            file=name,
        )
    if suffix not in ALLOWED and path.name not in ALLOWED_NAMES:
        raise ModelUnavailable(
            f"{name}: not a kind of file that belongs into a model "
            f"(accepted: {', '.join(sorted(ALLOWED))})",
            file=name,
        )


def _allow(path: Path, name: str) -> None:
    check_name(name)
    if not path.is_file():
        raise ModelUnavailable(f"{name}: missing, or not a regular file", file=name)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of the folder; raises `ModelUnavailable` naming the file."""
    try:
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise ModelUnavailable(f"{name}: missing", file=name) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{name}: not readable as JSON", file=name) from error
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{name}: not a JSON object", file=name)
    return value


def check_safetensors(folder: Path, name: str) -> None:
    """Check a safetensors file's header against its size, reading nothing but the header."""
    path = folder / name
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _broken(name, f"its header would be {length} bytes, in a file of {size_bytes}")
        raw = stream.read(length)
    data_bytes = size_bytes - 8 - length
    end = max((_end(name, entry, data_bytes) for entry in _tensors(name, raw)), default=0)
    if end != data_bytes:
        raise _broken(name, f"its tensors need {end} bytes, it holds {data_bytes}")


def tensor_shapes(folder: Path, name: str) -> dict[str, list[int]]:
    """The tensors of a safetensors file that was checked, by name; reads nothing but the header."""
    with (folder / name).open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(min(length, MAX_HEADER_BYTES)))
    return {key: entry["shape"] for key, entry in header.items() if key != "__metadata__"}


def _tensors(name: str, raw: bytes) -> list[Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise _broken(name, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _broken(name, "its header is not a JSON object")
    return [entry for key, entry in header.items() if key != "__metadata__"]


def _end(name: str, entry: Any, data_bytes: int) -> int:
    match entry:
        case {"dtype": str(), "shape": list(), "data_offsets": [int(begin), int(end)]}:
            if 0 <= begin <= end <= data_bytes:
                return end
            raise _broken(name, f"a tensor at {begin}..{end}, outside its {data_bytes} bytes")
        case _:
            raise _broken(name, "its header has an entry that is not a tensor")


def _broken(name: str, why: str) -> ModelUnavailable:
    return ModelUnavailable(f"{name}: not a sound safetensors file: {why}", file=name)


def _check_single_file(files: list[str]) -> None:
    weights = [name for name in files if name.endswith(".safetensors")]
    if len(weights) != 1 or "/" in weights[0]:
        raise ModelUnavailable(
            "a single-file model has exactly one safetensors file, beside its config/; "
            f"found: {', '.join(weights) or 'none'}"
        )


def _check_index(folder: Path, files: list[str], *, base: str) -> None:
    """`base` is where the index and the parts lie: nowhere below, or in `config/`."""
    name_of_index = base + INDEX
    index = read_json(folder, name_of_index)
    if not isinstance(index.get("_class_name"), str):
        raise ModelUnavailable(
            f"{name_of_index}: _class_name must name a stock pipeline", file=name_of_index
        )
    for component, entry in index.items():
        match entry:
            case [str() | None as library, str() | None as name] if library in LIBRARIES:
                if name is not None:
                    _check_component(folder, base + component, files, weights=not base)
            case [str() | None, str() | None]:
                raise ModelUnavailable(
                    f"{name_of_index}: {component} asks for code outside diffusers",
                    file=name_of_index,
                )
            case _:
                continue  # a plain value of the pipeline's own configuration


def _check_component(folder: Path, component: str, files: list[str], *, weights: bool) -> None:
    """One part of an index. `weights`: whether a model among them must have its own."""
    mine = [name for name in files if name.startswith(f"{component}/")]
    if not mine:
        if component.removeprefix(CONFIG) in OPTIONAL:
            return
        raise ModelUnavailable(f"{component}/: missing", file=f"{component}/")
    found = [name for name in mine if name.endswith(".safetensors")]
    if weights and f"{component}/{CONFIGS_OF_MODELS}" in mine and not found:
        raise ModelUnavailable(f"{component}/: no safetensors file", file=f"{component}/")
    for name in mine:
        if name.endswith(".safetensors.index.json"):
            shards: dict[str, Any] = read_json(folder, name).get("weight_map", {})
            for shard in sorted({f"{component}/{part}" for part in shards.values()} - set(found)):
                raise ModelUnavailable(f"{shard}: missing", file=shard)
