"""What a place to download from must be able to say, and how such places are found.

    resolve    the adapter's: a reference becomes a pinned list of files
    fetch      ours, `transfer.py`: bytes, with resuming and retries
    verify     ours, `engine.py`: sizes, hashes, kinds of files, headers
    describe   ours, `shared.models.describe`: the descriptor

An adapter is a callable, so it cannot weaken the other three. Those of other packages are entry
points of the group `dreamforge.model_sources`, named like the scheme that they answer to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cli.errors import Failure

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file. `path` is where it goes in the model's folder; one of the two hashes is there."""

    path: str
    url: str  # http or https; file only where the source is `local`
    size_bytes: int | None = None  # None: not announced
    tolerance_bytes: int = 0  # how far off the announced size may be, where the source rounds it
    sha256: str | None = None
    git_sha1: str | None = None  # of a git blob: what the hub has for small files

    def is_too_small(self, size_bytes: int) -> bool:
        return self.size_bytes is not None and size_bytes < self.size_bytes - self.tolerance_bytes

    def is_too_large(self, size_bytes: int) -> bool:
        return self.size_bytes is not None and size_bytes > self.size_bytes + self.tolerance_bytes


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A token, and the one origin (scheme, host, port) that may ever see it.

    It is sent as `Authorization: Bearer`. `parameter` names the query parameter to try when the
    host refuses that, as some do for their files.
    """

    token: str = field(repr=False)
    origin: str
    parameter: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """What a reference means now. `uri` and `revision` stand in the descriptor: no secrets."""

    name: str
    version: str
    uri: str
    revision: str | None
    files: tuple[RemoteFile, ...]
    license: str | None = None
    skipped: tuple[str, ...] = ()
    credential: Credential | None = None
    remedy: str = ""  # what to do when the host asks for a sign-in
    local: bool = False  # the files are on this host


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the command line asked for: the reference after its scheme, and choices of files."""

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


def read_token(name: str) -> str | None:
    """The token in an environment variable. Raises `Failure` for what no header can carry."""
    token = os.environ.get(name, "").strip()
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise Failure(f"{name} is no token: it has characters that no request can carry")
    return token or None


def to_model_name(text: str) -> str:
    """A name that the registry takes, made of one that somebody gave elsewhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")[:64] or "model"
