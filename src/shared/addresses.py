"""Addresses of other services, as settings hold them.

Each `check_…` raises `ValueError` for an address that its client could not read, or would read as
something else. The message says what to write instead and has no piece of the address, which may
hold a password. Services, command line and doctor check with the same functions, so that a wrong
address is the same line everywhere, and no client ever sees it.
"""

import ipaddress
import re
import socket
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

DATABASE = "postgresql://user:password@host:port/database"
BROKER = "redis://:password@host:port/0"
ORIGIN = "http://host:port or https://host:port"
_ESCAPE = (
    "has a character in its user or password that ends them; write / as %2F, ? as %3F, # as %23, "
    "@ as %40, [ as %5B and ] as %5D"
)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_TLS_OPTIONS = {
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
}


def check_database(text: str) -> str:
    """A PostgreSQL URL. Its query may hold what libpq knows, a `host` (a socket's folder) too.

    It may name several servers: `host:port,host:port`.
    """
    for one in _one_host_each(text):
        parts = _split(one, ("postgresql", "postgres"), DATABASE)
        if not (parts.hostname or parse_qs(parts.query).get("host")):
            raise ValueError(f"names no host; it must be {DATABASE}")
    return text


def check_broker(text: str) -> str:
    """A Redis URL; with rediss:// its query may say which certificates to trust."""
    parts = _split(text, ("redis", "rediss"), BROKER)
    _require_host(parts, BROKER)
    if not re.fullmatch(r"(/[0-9]{0,5})?", parts.path):
        raise ValueError("must end with the number of a database: /0")
    query = parse_qs(parts.query, keep_blank_values=True)
    allowed = _TLS_OPTIONS if parts.scheme == "rediss" else set[str]()
    if not query.keys() <= allowed:
        raise ValueError(f"may hold after ? only {', '.join(sorted(_TLS_OPTIONS))}, with rediss://")
    if query.get("ssl_cert_reqs", ["required"]) not in (["none"], ["optional"], ["required"]):
        raise ValueError("must have none, optional or required for ssl_cert_reqs")
    return text


def check_origin(text: str) -> str:
    """An HTTP address without a path; returned without a last slash."""
    parts = check_http(text, ORIGIN)
    if parts.username is not None or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(f"must be an origin alone: {ORIGIN}, without user, path and query")
    return text.rstrip("/")


def check_http(text: str, form: str) -> SplitResult:
    """An HTTP address of any path; its parts."""
    parts = _split(text, ("http", "https"), form)
    _require_host(parts, form)
    return parts


def check_host(text: str) -> str:
    """A name or an address to listen on; an IPv6 address may be in brackets."""
    host = text.removeprefix("[").removesuffix("]")
    if not _is_host(host):
        raise ValueError("must be a host's name, or an address like 127.0.0.1 or ::1, without port")
    return host


def address_of(url: str) -> str:
    """host:port of a URL, without what is secret in it; the folder of a socket."""
    return ", ".join(map(_address_of, _one_host_each(url)))


def servers_of(url: str) -> list[tuple[str, int | None]]:
    """Host and port of each server that a URL of a database names; a host may be a folder."""
    return [
        (host, one.port)
        for one in map(urlsplit, _one_host_each(url))
        for host in ([one.hostname] if one.hostname else parse_qs(one.query).get("host", []))
    ]


def _address_of(url: str) -> str:
    parts = urlsplit(url)
    if parts.hostname is None:
        return ", ".join(parse_qs(parts.query).get("host", ["a host that is not named"]))
    return joined(parts.hostname, parts.port)


def _one_host_each(url: str) -> list[str]:
    """The URL once for each of its hosts, which libpq separates by commas."""
    scheme, slashes, rest = url.partition("://")
    netloc = re.split("[/?#]", rest, maxsplit=1)[0]
    user, at, hosts = netloc.rpartition("@")
    if "," not in hosts:
        return [url]
    after = rest.removeprefix(netloc)
    return [f"{scheme}{slashes}{user}{at}{host}{after}" for host in hosts.split(",")]


def listening(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The family of a socket that listens on this name or address, and what it is bound to.

    A name is resolved: one of IPv6 alone has no other address. Raises `OSError`.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address


def joined(host: str, port: int | None) -> str:
    """host:port, an IPv6 address in brackets."""
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _split(text: str, schemes: tuple[str, ...], form: str) -> SplitResult:
    if not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(f"must be {form}")
    if any(not character.isprintable() or character.isspace() for character in text):
        raise ValueError("has a space, a line break or a sign that cannot be printed")
    try:
        parts = urlsplit(text)
    except ValueError:  # of brackets, and its text shows what stands in them
        raise ValueError(_ESCAPE) from None
    rest = text.partition("://")[2].removeprefix(parts.netloc)
    if parts.netloc.count("@") > 1 or ("@" in rest and "@" not in parts.netloc):
        raise ValueError(_ESCAPE)
    _check_port(parts)
    if parts.hostname is not None and not _is_host(parts.hostname):
        raise ValueError(f"has no host's name or address in its place; it must be {form}")
    return parts


def _check_port(parts: SplitResult) -> None:
    try:
        wrong = parts.port == 0
    except ValueError:  # its text shows what stands there, which may be a password's start
        wrong = True
    if wrong:
        raise ValueError(
            "must have one port, a number from 1 to 65535; a password stands before an @, and "
            "its / is written %2F"
        )


def _require_host(parts: SplitResult, form: str) -> None:
    if not parts.hostname:
        raise ValueError(f"names no host; it must be {form}")


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _NAME.fullmatch(host) is not None and all(map(_is_label, host.split(".")))
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_label(label: str) -> bool:
    """Whether a name of another script, which begins with xn--, can be what it says."""
    return not label.lower().startswith("xn--") or _can_be_decoded(label[len("xn--") :])


def _can_be_decoded(text: str) -> bool:
    try:
        return bool(text.encode("ascii").decode("punycode"))
    except UnicodeError:
        return False
