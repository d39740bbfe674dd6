"""Parts that run elsewhere: a setting names them, so the stack starts none of its own."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cli.errors import StackError
from cli.processes.part import LocalServer, pick

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
        parts = urlsplit(values[setting])
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme, 80)
    except ValueError:
        host = None
    if not host:
        raise StackError(f"{setting} is no address of the form scheme://host:port")
    return ExternalPart(title=server.title, setting=setting, host=host, port=port)
