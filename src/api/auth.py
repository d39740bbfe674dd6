"""Who is asking. One place, so that keys (`DF_API_KEYS`) change nothing else when they come."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from fastapi import Depends

DEFAULT_USER = "default"


def current_user() -> str:
    """The caller's name, which is `jobs.user` and part of every artifact's key."""
    return DEFAULT_USER


User = Annotated[str, Depends(current_user)]


def is_loopback(host: str) -> bool:
    """Whether binding to `host` keeps the API on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
