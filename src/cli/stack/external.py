"""Parts that run elsewhere: a setting names them, so the stack starts none of its own."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from cli.errors import StackError
from cli.processes.part import LocalServer, pick
from shared.addresses import check_broker, check_database, check_origin, joined

_CHECKS: Mapping[str, Callable[[str], str]] = {
    "DF_DATABASE_URL": check_database,
    "DF_REDIS_URL": check_broker,
    "DF_S3_ENDPOINT": check_origin,
}
_DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379, "https": 443}
_CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class ExternalPart:
    """A part that runs elsewhere, by the setting that names it. `host` may be a socket's folder."""

    title: str
    setting: str
    host: str
    port: int

    @property
    def address(self) -> str:
        return self._socket or joined(self.host, self.port)

    @property
    def _socket(self) -> str | None:
        """The path of PostgreSQL's local socket, where `host` is its folder."""
        return f"{self.host}/.s.PGSQL.{self.port}" if self.host.startswith("/") else None

    def unreachable(self) -> str | None:
        """None when a server listens there, else one line that names setting and address."""
        try:
            self._connect()
        except OSError as error:
            return f"{self.title} at {self.address} ({self.setting}) cannot be reached: {error}"
        return None

    def _connect(self) -> None:
        if self._socket is None:
            socket.create_connection((self.host, self.port), _CONNECT_TIMEOUT_S).close()
            return
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(_CONNECT_TIMEOUT_S)
            link.connect(self._socket)


def find(server: type[LocalServer], environ: Mapping[str, str]) -> ExternalPart | None:
    """What runs in place of our server, None where no setting names it. Raises StackError."""
    values = pick(environ, *server.settings)
    if not values:
        return None
    if missing := [name for name in server.settings if name not in values]:
        raise StackError(
            f"{', '.join(values)} is set but {', '.join(missing)} is not: set all or none"
        )
    setting = server.settings[0]
    try:
        parts = urlsplit(_CHECKS[setting](values[setting]))
    except ValueError as error:
        raise StackError(f"{setting}: {error}") from None
    return ExternalPart(
        title=server.title,
        setting=setting,
        host=parts.hostname or parse_qs(parts.query)["host"][0],
        port=parts.port or _DEFAULT_PORTS.get(parts.scheme, 80),
    )
