"""Every HTTP client of the command line is made here, because the environment may forbid it.

httpx reads the proxies of the environment when a client is made, and raises three kinds of error
for those that it cannot use. Their texts show the address of the proxy, which may hold a password.
"""

import os
from typing import Any
from urllib.parse import urlsplit

import httpx

from cli.errors import Failure

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


def open_client(**options: Any) -> httpx.Client:
    """An HTTP client. Raises `Failure` that names the variable whose proxy cannot be used."""
    try:
        return httpx.Client(**options)
    except (ValueError, ImportError, httpx.InvalidURL):
        raise Failure(_problem(), hint="unset it for this command, or correct it") from None


def _problem() -> str:
    for name in _PROXIES:
        for spelling in (name, name.lower()):
            value = os.environ.get(spelling)
            if value and not _is_usable(value):
                return f"{spelling}: only http:// and https:// proxies can be used"
    spelling = "NO_PROXY" if "NO_PROXY" in os.environ else "no_proxy"
    return f"{spelling}: must be names and addresses separated by commas; a network of IPv6 is none"


def _is_usable(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
