"""API keys as they are configured: a name, and the SHA-256 of a key. The key itself is nowhere.

A plain hash is enough because a key is not a password: it is random, and nobody guesses 256 bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """`name` is the user of the jobs that this key creates."""

    name: str
    sha256: bytes


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """`name:sha256hex,…`. Raises `ValueError`, without the value: it may be a key in the clear."""
    if not text.strip():
        return ()
    keys = tuple(_parse(number, part) for number, part in enumerate(text.split(","), 1))
    for what, values in (
        ("name", [key.name for key in keys]),
        ("SHA-256", [key.sha256.hex() for key in keys]),
    ):
        if (twice := _first_repeated(values)) is not None:
            raise ValueError(f"entry {twice + 1} repeats the {what} of an earlier one")
    return keys


def _parse(number: int, part: str) -> ApiKey:
    name, separator, digest = part.strip().partition(":")
    if not separator:
        raise ValueError(f"entry {number} must be name:sha256hex")
    if not _NAME.fullmatch(name):
        raise ValueError(f"entry {number}: a name is 1 to 64 of a-z, 0-9, _ and -")
    if not _SHA256.fullmatch(digest):
        raise ValueError(
            f"entry {number}: after the name comes the key's SHA-256, 64 hexadecimal digits"
        )
    return ApiKey(name=name, sha256=bytes.fromhex(digest))


def _first_repeated(values: list[str]) -> int | None:
    return next((i for i, value in enumerate(values) if value in values[:i]), None)
