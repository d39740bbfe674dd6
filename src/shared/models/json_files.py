"""The JSON files of a model folder, read without trusting them.

A file that the libraries could not read would make every job of the model fail, so all of them are
read when a model is installed, and all but the vocabularies before each load.
"""

import json
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from shared.errors import ModelUnavailable
from shared.models.lfs import NO_FILE_BUT_A_POINTER, is_lfs_pointer
from shared.typed_json import is_deeper

MAX_CONFIG_BYTES = 8 << 20  # the largest, of a tokenizer, has 1.2 MB
MAX_DEPTH = 64  # the tokenizers' own reader stops at 128, copies of a configuration not much later
# These may have tens of megabytes (`folder.MAX_OTHER_BYTES`).
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json"})
# What a part's configuration must not say, with the reason.
_FOREIGN = {
    "transformers_weights": "names the file of its weights, which only their own names may do",
    "quantization_config": "its weights are packed for another library; take the plain ones",
}


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON object of the folder; raises `ModelUnavailable` naming the file."""
    value = read_any_json(folder, name)
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{name}: not a JSON object", file=name)
    return value


def read_any_json(folder: Path, name: str) -> Any:
    """One JSON value of the folder, in UTF-8, of bounded size and depth."""
    path = PurePosixPath(name)
    try:
        status = (folder / name).lstat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device may have no end
            raise ModelUnavailable(f"{name}: a link, or not a regular file", file=name)
        size_bytes = status.st_size
        if path.name not in VOCABULARIES and size_bytes > MAX_CONFIG_BYTES:
            raise ModelUnavailable(
                f"{name}: {size_bytes} bytes; a configuration has {MAX_CONFIG_BYTES} at most",
                file=name,
            )
        content = (folder / name).read_bytes()
        if is_lfs_pointer(content):
            raise ModelUnavailable(f"{name}: {NO_FILE_BUT_A_POINTER}", file=name)
        value = json.loads(content.decode(), parse_constant=_constant)
    except FileNotFoundError:
        raise ModelUnavailable(f"{name}: missing", file=name) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{name}: not readable as JSON", file=name) from error
    if is_deeper(value, MAX_DEPTH):
        raise ModelUnavailable(f"{name}: nested more than {MAX_DEPTH} levels deep", file=name)
    return value


def _constant(text: str) -> float:
    """Infinity is no JSON, but stands in schedulers of diffusers. NaN would draw nothing."""
    if text == "NaN":
        raise ValueError(text)
    return float(text)


def check_json_files(folder: Path, names: list[str], *, vocabularies: bool) -> None:
    """Read every JSON file of `names`; refuse a configuration that leads out of the folder."""
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() != ".json" or (path.name in VOCABULARIES and not vocabularies):
            continue
        value = read_any_json(folder, name)
        if path.name == "config.json":
            _check_config(name, value)


def _check_config(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{name}: not a JSON object", file=name)
    for key, why in _FOREIGN.items():
        if value.get(key) is not None:
            raise ModelUnavailable(f"{name}: {key}: {why}", file=name)
