"""The files of a model folder, read without trusting them.

A model is data of strangers. Safetensors and plain configuration are allowed. A pickle runs code
when it is loaded, so its suffixes are refused with that reason; every other file is refused too.
`shared.models.check` looks into the files.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from shared.errors import ModelUnavailable

DESCRIPTOR = "dreamforge.json"
INDEX = "model_index.json"
# Of a single-file model: a diffusers folder that configures its parts. It has weights only for the
# parts that the file lacks.
CONFIG = "config/"
ONE_FILE = "model.safetensors"  # the weights of a network that is no pipeline
WEIGHTS = (".safetensors", ".gguf")
# A transformer whose numbers are packed, in the folder of its configuration.
PACKED = re.compile(r"transformer/[^/]+\.gguf")
Layout = Literal["diffusers", "single_file", "network"]
# .model: SentencePiece. Pictures belong to a model card; nothing decodes them.
ALLOWED = frozenset({".safetensors", ".json", ".txt", ".md", ".model", ".png", ".jpg"})
# The template is a tokenizer's: how a prompt is put to a language model. Others have it in their
# JSON; either way it runs in the sandbox of its library, and that in the runner's.
ALLOWED_NAMES = frozenset({"LICENSE", "NOTICE", "README", "chat_template.jinja"})
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".pyc"})
# Names the files that hold a part's weights; a variant stands behind `index`.
_INDEX_OF_WEIGHTS = re.compile(r".*\.index(?:\.\w+)?\.json", re.IGNORECASE)
SAFE_INDEX = re.compile(r".*\.safetensors\.index(?:\.\w+)?\.json")
ADAPTER = "adapter_config.json"  # names another model, of which the folder is a change

# Often named by an index and not shipped, or as a pickle; the runner loads without it.
OPTIONAL = frozenset({"safety_checker", "image_encoder"})
CONFIGS_OF_MODELS = "config.json"  # schedulers, tokenizers and processors call theirs otherwise

HASH_CHUNK_BYTES = 1 << 20
MAX_NAME_BYTES = 255  # of one part of a path, on every usual file system
MAX_FILES = 4096  # a large model in shards has some hundred
MAX_LEVELS = 16  # of folders in folders; no model has more than three
MAX_OTHER_BYTES = 64 << 20  # of a file that is no weights; the largest tokenizer is 35 MB


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
    names: list[str] = []
    with reading("the model's folder"):
        if not folder.is_dir():
            raise ModelUnavailable("the model's folder is missing on this host")
        for parent, folders, files in os.walk(folder, onerror=_raise):
            check_extent(folder, parent, len(names) + len(files))
            for entry in (*folders, *files):
                path = Path(parent, entry)
                name = path.relative_to(folder).as_posix()
                if path.is_symlink():
                    raise ModelUnavailable(f"{name}: a link, not a file of this folder", file=name)
                if entry in files and name != DESCRIPTOR:
                    check_name(name)
                    if not path.is_file():
                        raise ModelUnavailable(f"{name}: missing, or not a regular file", file=name)
                    check_size(name, path.stat().st_size)
                    names.append(name)
    return sorted(names)


def check_extent(folder: Path, parent: str, files: int) -> None:
    """Refuse a walk through `folder` that has come to `parent` and to so many files."""
    if files > MAX_FILES:
        raise ModelUnavailable(f"more than {MAX_FILES} files, which no model has")
    levels = len(Path(parent).relative_to(folder).parts)
    if levels > MAX_LEVELS:
        raise ModelUnavailable(f"folders in folders, {levels} deep, which no model has")


def check_size(name: str, size_bytes: int) -> None:
    """Refuse a file by its size alone; weights may have any."""
    if size_bytes > MAX_OTHER_BYTES and not name.endswith(WEIGHTS):
        raise ModelUnavailable(
            f"{name}: {size_bytes} bytes; a file without weights has {MAX_OTHER_BYTES} at most",
            file=name,
        )


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
    if path.name == ADAPTER:
        raise ModelUnavailable(f"{name}: an adapter, which names another model", file=name)
    if _INDEX_OF_WEIGHTS.fullmatch(path.name) and not SAFE_INDEX.fullmatch(path.name):
        raise ModelUnavailable(
            f"{name}: an index of weights that are no safetensors; only those are accepted",
            file=name,
        )
    if suffix == ".gguf" and not PACKED.fullmatch(name):
        raise ModelUnavailable(
            f"{name}: a GGUF file is the transformer of a diffusers folder and no model by "
            "itself; put it into transformer/ of the folder that the makers publish, beside "
            "config.json and in the place of the safetensors, and import it (docs/models.md)",
            file=name,
        )
    if suffix not in {*ALLOWED, ".gguf"} and path.name not in ALLOWED_NAMES:
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


def model_parts(index: dict[str, Any], files: list[str]) -> set[str]:
    """The parts of a single-file model that have weights somewhere."""
    return {
        part
        for part in index
        if part not in OPTIONAL and f"{CONFIG}{part}/{CONFIGS_OF_MODELS}" in files
    }
