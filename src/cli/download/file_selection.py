"""Which of the files that a source lists are fetched."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from shared.errors import ModelUnavailable
from shared.models.folder import INDEX, check_name

# Weights are one file or several; a variant is named before the number of the file.
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_VARIANT = re.compile(r"\.[A-Za-z0-9_]+$")


def select_files(
    names: list[str], include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """The files to fetch, and those that a model does not need. Raises `ModelUnavailable`.

    What was asked for by pattern must be acceptable. Without a pattern, all that is acceptable is
    taken, less second copies: other precisions (`x.fp16.safetensors` beside `x.safetensors`), and
    weights in one file beside a folder of parts.
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
    if not name.endswith(".safetensors"):
        return PurePosixPath(name).suffix not in {".png", ".jpg"}
    if _stem(name) != (plain := _plain_stem(name)) and plain in {_stem(other) for other in names}:
        return False
    return "/" in name or INDEX not in names


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _stem(name: str) -> str:
    """A file of weights without the number that it has among several."""
    return _SHARD.sub("", name.removesuffix(".safetensors"))


def _plain_stem(name: str) -> str:
    """The same without its variant: what the copy in full precision is called."""
    return _VARIANT.sub("", _stem(name))
