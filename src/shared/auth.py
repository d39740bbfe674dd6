"""API keys, and who a request's key belongs to. Both services use it.

A key is configured as a name and a SHA-256; the key itself is stored nowhere. A plain hash is
enough because a key is not a password: it is random, and 256 bits cannot be guessed.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import Unauthorized

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


# The one in use, and the next one, while clients change from one to the other.
KEYS_OF_ONE_NAME = 2


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
    hashes = [key.sha256.hex() for key in keys]
    if (twice := _first_repeated(hashes)) is not None:
        raise ValueError(f"entry {twice + 1} repeats the SHA-256 of an earlier one")
    names = [key.name for key in keys]
    for number, name in enumerate(names, 1):
        if names[:number].count(name) > KEYS_OF_ONE_NAME:
            raise ValueError(
                f"entry {number} is the third key of its name; two are enough to change one"
            )
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


def authenticate(authorization: Sequence[str], known: tuple[ApiKey, ...]) -> str:
    """The name of the key in a request's `Authorization` headers. Raises `Unauthorized`."""
    scheme, _, key = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        raise Unauthorized("an API key is needed: Authorization: Bearer <key>")
    user = _name_of(key.strip(), known)
    if user is None:
        raise Unauthorized("this API key is not known")
    return user


def _name_of(key: str, known: tuple[ApiKey, ...]) -> str | None:
    """Compare with every hash, each in constant time: the duration tells a caller nothing."""
    digest = hashlib.sha256(key.encode("latin-1")).digest()
    name = None
    for each in known:
        if hmac.compare_digest(digest, each.sha256):
            name = each.name
    return name


def is_loopback(host: str) -> bool:
    """Whether binding to `host` keeps a service on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
