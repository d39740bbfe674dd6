"""Select the files to fetch from the list of a source."""

import re
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from shared.errors import ModelUnavailable
from shared.models.folder import INDEX, PACKED, check_name

# The variant stands before the number of the shard: x.fp16-00001-of-00002.safetensors.
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_VARIANT = re.compile(r"\.[A-Za-z0-9_]+$")


def select_files(
    names: list[str], include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """The files to fetch, and the others. Raises `ModelUnavailable`.

    A file that a pattern names must be acceptable. Without a pattern all acceptable files are
    selected, except second copies: other precisions (`x.fp16.safetensors` beside `x.safetensors`),
    and weights in one file beside a folder of parts.
    """
    if include:
        kept = [name for name in names if matches(name, include) and not matches(name, exclude)]
        for name in kept:
            check_name(name)
    else:
        kept = [name for name in names if _useful(name, names) and not matches(name, exclude)]
    return sorted(kept), sorted(set(names) - set(kept))


def _useful(name: str, names: list[str]) -> bool:
    try:
        check_name(name)
    except ModelUnavailable:
        return False
    if PACKED.fullmatch(name):  # a second copy where the same weights are there in full
        return not any(n.startswith("transformer/") and n.endswith(".safetensors") for n in names)
    if not name.endswith(".safetensors"):
        return PurePosixPath(name).suffix not in {".png", ".jpg"}
    if _stem(name) != (plain := _plain_stem(name)) and plain in {_stem(other) for other in names}:
        return False
    return "/" in name or INDEX not in names


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _stem(name: str) -> str:
    """The name of a file of weights, without the number of its shard."""
    return _SHARD.sub("", name.removesuffix(".safetensors"))


def _plain_stem(name: str) -> str:
    """The same without its variant: the name of the copy in full precision."""
    return _VARIANT.sub("", _stem(name))
