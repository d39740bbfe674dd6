"""Parts that run elsewhere: a setting names them, so the stack starts none of its own."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cli.errors import StackError
from cli.stack.part import pick

_S3 = ("DF_S3_ENDPOINT", "DF_S3_ACCESS_KEY", "DF_S3_SECRET_KEY")
_DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379, "https": 443}
_CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class ExternalPart:
    """A part that runs elsewhere, by the setting that names it."""

    title: str
    setting: str
    host: str
    port: int

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def unreachable(self) -> str | None:
        """None when a server listens there, else one line that names setting and address."""
        try:
            socket.create_connection((self.host, self.port), _CONNECT_TIMEOUT_S).close()
        except OSError as error:
            return f"{self.title} at {self.address} ({self.setting}) cannot be reached: {error}"
        return None


def external(title: str, setting: str, url: str) -> ExternalPart:
    """The part behind an address setting; raises StackError when it is no address."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)
    except ValueError:
        host = None
    if not host:
        raise StackError(f"{setting} is no address of the form scheme://host:port")
    return ExternalPart(title=title, setting=setting, host=host, port=port)


def database(environ: Mapping[str, str]) -> ExternalPart | None:
    url = environ.get("DF_DATABASE_URL")
    return external("PostgreSQL", "DF_DATABASE_URL", url) if url else None


def broker(environ: Mapping[str, str]) -> ExternalPart | None:
    url = environ.get("DF_REDIS_URL")
    return external("Broker", "DF_REDIS_URL", url) if url else None


def store(environ: Mapping[str, str]) -> ExternalPart | None:
    """All three settings or none: half of them name no store."""
    settings = pick(environ, *_S3)
    if not settings:
        return None
    if missing := [name for name in _S3 if name not in settings]:
        raise StackError(
            f"{', '.join(settings)} is set but {', '.join(missing)} is not: set all or none"
        )
    return external("S3 store", "DF_S3_ENDPOINT", settings["DF_S3_ENDPOINT"])
