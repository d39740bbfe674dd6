"""Every HTTP client of the command line is made here, because the environment may forbid it.

httpx reads proxies and certificates of the environment when a client is made. For what it cannot
use it raises errors of many kinds, whose texts show a proxy's address, which may hold a password,
or name no file at all. So the variables are looked at first.
"""

import os
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import httpx

from cli.errors import Failure
from shared.certificates import tls_problem

_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_EXCEPTIONS = "NO_PROXY"
_SCHEMES = ("http", "https", "socks5", "socks5h")  # the last two where httpx's package is there
_UNUSABLE = "only http:// and https:// proxies can be used, with a port from 1 to 65535"
_NO_LIST = (
    "must be names and addresses separated by commas; an IPv6 address has no brackets there, and a "
    "network of IPv6 is none"
)
_CORRECT = "unset it for this command, or correct it"


def open_client(**options: Any) -> httpx.Client:
    """An HTTP client. Raises `Failure` that names the variable whose value cannot be used."""
    if options.get("trust_env", True) and (problem := _problem()) is not None:
        raise Failure(problem, hint=_CORRECT)
    try:
        return httpx.Client(**options)
    except ImportError:
        raise Failure(f"{_first_set(_PROXIES)}: {_UNUSABLE}", hint=_CORRECT) from None
    except (ValueError, httpx.InvalidURL):
        raise Failure(f"{_spelling(_EXCEPTIONS)}: {_NO_LIST}", hint=_CORRECT) from None


def reason(error: Exception, url: str) -> str:
    """What follows "cannot reach" or "cannot be reached": through which proxy, and why not."""
    why = " ".join(str(error).split()) or type(error).__name__
    proxy = proxy_for(url)
    return f": {why}" if proxy is None else f" through {proxy}: {why}"


def proxy_for(url: str) -> str | None:
    """The variable whose proxy a request to `url` goes through; None where it goes through none."""
    parts = urlsplit(url)
    proxies = getproxies_environment()
    name = next((name for name in (parts.scheme, "all") if name in proxies), None)
    if name is None or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return _spelling(f"{name}_proxy".upper())


def is_refused_certificate(error: Exception) -> bool:
    """Whether the server was reached, and its certificate is of no authority that is known."""
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def refused_certificate(host: str, error: Exception) -> Failure:
    """No other attempt would help."""
    return Failure(
        f"{host}: its certificate is not trusted: {' '.join(str(error).split())}",
        hint="where a network has authorities of its own, SSL_CERT_FILE names a file with them",
    )


def _problem() -> str | None:
    for name in _PROXIES:
        value = os.environ.get(spelling := _spelling(name))
        if value and not _is_usable(value):
            return f"{spelling}: {_UNUSABLE}"
    return tls_problem()


def _spelling(name: str) -> str:
    """The variable that counts: Python prefers the small letters."""
    return name.lower() if os.environ.get(name.lower()) else name


def _first_set(names: tuple[str, ...]) -> str:
    return next((s for name in names if os.environ.get(s := _spelling(name))), names[0])


def _is_usable(proxy: str) -> bool:
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        plain = proxy.isprintable() and " " not in proxy
        return plain and parts.scheme in _SCHEMES and bool(parts.hostname and parts.port != 0)
    except ValueError:
        return False
