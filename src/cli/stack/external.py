"""Parts that run elsewhere: a setting names them, so the stack starts none of its own."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cli.errors import StackError
from cli.processes.part import LocalServer, pick
from shared.addresses import check_broker, check_database, check_origin, joined, servers_of

_CHECKS: Mapping[str, Callable[[str], str]] = {
    "DF_DATABASE_URL": check_database,
    "DF_REDIS_URL": check_broker,
    "DF_S3_ENDPOINT": check_origin,
}
_DEFAULT_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379, "rediss": 6379, "https": 443}
_CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class ExternalPart:
    """A part that runs elsewhere, by the setting that names it.

    `servers` are hosts and ports, of which one must answer. A host may be a socket's folder.
    """

    title: str
    setting: str
    servers: tuple[tuple[str, int], ...]

    @property
    def address(self) -> str:
        return ", ".join(_socket(*each) or joined(*each) for each in self.servers)

    def unreachable(self) -> str | None:
        """None when a server listens there, else one line that names setting and address."""
        problem = ""
        for host, port in self.servers:
            try:
                _connect(host, port)
            except OSError as error:
                problem = str(error)
            else:
                return None
        return f"{self.title} at {self.address} ({self.setting}) cannot be reached: {problem}"


def _socket(host: str, port: int) -> str | None:
    """The path of PostgreSQL's local socket, where `host` is its folder."""
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else None


def _connect(host: str, port: int) -> None:
    if (path := _socket(host, port)) is None:
        socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
        return
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(_CONNECT_TIMEOUT_S)
        link.connect(path)


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
        address = _CHECKS[setting](values[setting])
    except ValueError as error:
        raise StackError(f"{setting}: {error}") from None
    default = _DEFAULT_PORTS.get(address.partition("://")[0], 80)
    return ExternalPart(
        title=server.title,
        setting=setting,
        servers=tuple((host, port or default) for host, port in servers_of(address)),
    )
