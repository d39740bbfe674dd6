"""The files of a model folder, read without trusting them.

A model is data of strangers. Safetensors and plain configuration are allowed. A pickle runs code
when it is loaded, so its suffixes are refused with that reason; every other file is refused too.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from shared.errors import ModelUnavailable
from shared.models.safetensors_header import tensor_shapes

DESCRIPTOR = "dreamforge.json"
INDEX = "model_index.json"
# Of a single-file model: a diffusers folder that configures its parts. It has weights only for the
# parts that the file lacks.
CONFIG = "config/"
ONE_FILE = "model.safetensors"  # the weights of a network that is no pipeline
Layout = Literal["diffusers", "single_file", "network"]
# .model: SentencePiece. Pictures belong to a model card; nothing decodes them.
ALLOWED = frozenset({".safetensors", ".json", ".txt", ".md", ".model", ".png", ".jpg"})
ALLOWED_NAMES = frozenset({"LICENSE", "NOTICE", "README"})
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".pyc"})

# diffusers imports the module that an index names. Any other than its own would run foreign code.
LIBRARIES = frozenset({"diffusers", "transformers", "stable_diffusion", None})
# Often named by an index and not shipped; the runner loads without it.
OPTIONAL = frozenset({"safety_checker"})
CONFIGS_OF_MODELS = "config.json"  # schedulers, tokenizers and processors call theirs otherwise

HASH_CHUNK_BYTES = 1 << 20
MAX_NAME_BYTES = 255  # of one part of a path, on every usual file system
MAX_JSON_BYTES = 64 << 20  # the largest tokenizer is 35 MB


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
            pass  # it has no parts; its tensors say what it is
    for name in files:
        if name.endswith(".safetensors"):
            with reading(name):
                tensor_shapes(folder, name)
    return files


def layout_of(files: list[str]) -> Layout:
    """Where the weights are: each part in its folder, all in one file beside `config/`, or in the
    one file of a network that has no other part."""
    if INDEX in files:
        return "diffusers"
    if f"{CONFIG}{INDEX}" in files:
        return "single_file"
    weights = [name for name in files if name.endswith(".safetensors")]
    return "network" if weights == [ONE_FILE] else "diffusers"


def list_files(folder: Path) -> list[str]:
    """Every file but the descriptor, relative, sorted; `ModelUnavailable` names a bad one.

    A link is refused wherever it points: its target can change without a trace in the folder.
    """
    names = []
    with reading("the model's folder"):
        if not folder.is_dir():
            raise ModelUnavailable("the model's folder is missing on this host")
        for parent, folders, files in os.walk(folder, onerror=_raise):
            for entry in (*folders, *files):
                path = Path(parent, entry)
                name = path.relative_to(folder).as_posix()
                if path.is_symlink():
                    raise ModelUnavailable(f"{name}: a link, not a file of this folder", file=name)
                if entry in files and name != DESCRIPTOR:
                    check_name(name)
                    if not path.is_file():
                        raise ModelUnavailable(f"{name}: missing, or not a regular file", file=name)
                    names.append(name)
    return sorted(names)


def check_name(name: str) -> None:
    """Refuse a file by its name alone; `ModelUnavailable` says why."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ModelUnavailable(f"{name!r}: a path that leaves the model's folder", file=name)
    # Two spellings of one file overwrite each other, and control characters reach terminals.
    plain = str(path) == name and name.isprintable()
    # Only a printable name can be encoded: a byte that is no UTF-8 comes as half a character.
    if not plain or any(len(part.encode()) > MAX_NAME_BYTES for part in path.parts):
        raise ModelUnavailable(f"{name!r}: not a plain file name", file=name)
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


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Around reading `name`: a file that vanishes or cannot be read is `ModelUnavailable`."""
    try:
        yield
    except OSError as error:
        raise ModelUnavailable(f"{name}: {error.strerror or error}", file=name) from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    with reading(path.name), path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of the folder; raises `ModelUnavailable` naming the file."""
    try:
        if (folder / name).stat().st_size > MAX_JSON_BYTES:
            raise ModelUnavailable(f"{name}: more than {MAX_JSON_BYTES} bytes", file=name)
        value = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        raise ModelUnavailable(f"{name}: missing", file=name) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{name}: not readable as JSON", file=name) from error
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{name}: not a JSON object", file=name)
    return value


def _check_single_file(files: list[str]) -> None:
    weights = [name for name in files if name.endswith(".safetensors")]
    alone = [name for name in weights if "/" not in name]
    astray = [name for name in weights if "/" in name and not name.startswith(CONFIG)]
    if len(alone) != 1 or astray:
        raise ModelUnavailable(
            "a single-file model has exactly one safetensors file at its top, beside its config/; "
            f"found: {', '.join(alone + astray) or 'none'}"
        )


def _check_index(folder: Path, files: list[str], *, base: str) -> None:
    """`base` is where the index and the parts are: empty for the top, or `config/`."""
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


def model_parts(index: dict[str, Any], files: list[str]) -> set[str]:
    """The parts of a single-file model that have weights somewhere."""
    return {
        part
        for part in index
        if part not in OPTIONAL and f"{CONFIG}{part}/{CONFIGS_OF_MODELS}" in files
    }


def _check_component(folder: Path, component: str, files: list[str], *, weights: bool) -> None:
    """One component of an index. `weights`: whether it must have its own, if it is a model."""
    own = [name for name in files if name.startswith(f"{component}/")]
    if not own:
        if component.removeprefix(CONFIG) in OPTIONAL:
            return
        raise ModelUnavailable(f"{component}/: missing", file=f"{component}/")
    tensors = [name for name in own if name.endswith(".safetensors")]
    if weights and f"{component}/{CONFIGS_OF_MODELS}" in own and not tensors:
        raise ModelUnavailable(f"{component}/: no safetensors file", file=f"{component}/")
    for name in own:
        if name.endswith(".safetensors.index.json"):
            shards = read_json(folder, name).get("weight_map")
            if not isinstance(shards, dict):
                raise ModelUnavailable(f"{name}: weight_map must be an object", file=name)
            for shard in sorted({f"{component}/{part}" for part in shards.values()} - set(tensors)):
                raise ModelUnavailable(f"{shard}: missing", file=shard)
