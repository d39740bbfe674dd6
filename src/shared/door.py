"""Who may pass through an HTTP door of ours: API keys, and what counts as this machine alone.

Both services ask the same questions. The API's edge and the worker's probes differ only in which
of their paths stay open.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence

from shared.auth import ApiKey
from shared.errors import Unauthorized


def user_of(authorization: Sequence[str], known: tuple[ApiKey, ...]) -> str:
    """The name of the key in a request's `Authorization` headers. Raises `Unauthorized`."""
    scheme, _, key = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        raise Unauthorized("an API key is needed: Authorization: Bearer <key>")
    user = _name_of(key.strip(), known)
    if user is None:
        raise Unauthorized("this API key is not known")
    return user


def _name_of(key: str, known: tuple[ApiKey, ...]) -> str | None:
    """Compares with every hash, and each in constant time: how long it takes says nothing."""
    digest = hashlib.sha256(key.encode("latin-1")).digest()
    found = None
    for each in known:
        if hmac.compare_digest(digest, each.sha256):
            found = each.name
    return found


def is_loopback(host: str) -> bool:
    """Whether binding to `host` keeps a service on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
