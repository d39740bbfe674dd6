"""The vocabulary of model sources, for ours and for those of other packages.

    resolve    the source's: a reference becomes a pinned list of files
    fetch      ours, `transfer.py`: bytes, with resuming and retries
    verify     ours, `model_download.py`: sizes, hashes, kinds of files, headers
    describe   ours, `shared.models`: the descriptor

A source is a callable, so it cannot weaken the other three steps. Other packages add sources as
entry points of the group `dreamforge.model_sources`, named like the scheme that they answer to.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cli.errors import Failure
from shared.addresses import check_http

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file. `path` is its place in the model's folder; one of the two hashes is set."""

    path: str
    url: str  # http or https; file only where the source is `local`
    size_bytes: int | None = None  # None: not announced
    tolerance_bytes: int = 0  # how far off the size may be, where the source rounds it
    sha256: str | None = None
    git_sha1: str | None = None  # of a git blob: what the hub has for small files

    def is_too_small(self, size_bytes: int) -> bool:
        return self.size_bytes is not None and size_bytes < self.size_bytes - self.tolerance_bytes

    def is_too_large(self, size_bytes: int) -> bool:
        return self.size_bytes is not None and size_bytes > self.size_bytes + self.tolerance_bytes


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A token, and the one origin (scheme, host, port) that may see it.

    It is sent as `Authorization: Bearer`. `parameter` names the query parameter to try when the
    host refuses the header, as some hosts do for their files.
    """

    token: str = field(repr=False)
    origin: str
    parameter: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """What a reference means now. The descriptor repeats `uri` and `revision`: no secrets there."""

    name: str
    version: str
    uri: str
    revision: str | None
    files: tuple[RemoteFile, ...]
    license: str | None = None
    skipped: tuple[str, ...] = ()
    credential: Credential | None = None
    remedy: str = ""  # the advice when the host asks for a sign-in
    local: bool = False  # the files are on this host


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the operator wrote: the scheme, the rest after it, and patterns for files."""

    scheme: str
    rest: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


Source = Callable[[Reference], ResolvedModel]


def parse_origin(url: str) -> str:
    """Scheme, host and port of an address, in one spelling. Raises `Failure` for none."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise Failure(f"{url!r} is no address of a host") from None
    return f"{parts.scheme}://{parts.hostname}:{port}"


def read_endpoint(variable: str, default: str) -> str:
    """The address of a site, from an environment variable, without a last slash.

    Raises `Failure` that names the variable, and no piece of the address: it may hold a password.
    """
    address = os.environ.get(variable, "").strip().rstrip("/") or default
    try:
        check_http(address, f"an address like {default}")
    except ValueError as error:
        raise Failure(f"{variable} {error}") from None
    return address


def read_token(variable: str) -> str | None:
    """The token in an environment variable. Raises `Failure` for what no header can carry."""
    token = os.environ.get(variable, "").strip()
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise Failure(f"{variable} is no token: it has characters that no request can carry")
    return token or None


def to_model_name(text: str) -> str:
    """A name that the registry accepts, made of a foreign one."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:64] or "model"
