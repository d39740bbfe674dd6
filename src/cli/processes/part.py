"""What the process manager needs to know of a part; the parts are in the files beside this one.

A part is a description. It holds no process: the process manager spawns, watches and ends it.
"""

import http.client
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Protocol

from cli.errors import StackError
from cli.processes.run_as import Identity
from cli.state_dir import StateDir


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run. `environ` is all that it gets beside our marker; `stdin` is text for helpers."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    cwd: Path
    identity: Identity | None = None
    stdin: str = field(default="", repr=False)


# Runs a helper command (initdb, …) to its end; the process manager ends it early where it must.
# Raises StackError with the last lines of its log when it fails.
Helper = Callable[[Command], None]


class Part(Protocol):
    """`name` is also the name of its log. Times are seconds."""

    name: str
    title: str
    stop_signal: signal.Signals
    stop_grace_s: float
    ready_timeout_s: float

    def prepare(self, helper: Helper) -> None:
        """Make what a start needs (data folder, configuration). Before every start: be quick."""

    def command(self) -> Command:
        """What to run."""

    def not_ready(self) -> str | None:
        """None when it serves, else why not; answers within about a second."""

    def address(self) -> str:
        """Where it is, for the table: no secret in it."""

    def environment(self) -> dict[str, str]:
        """The `DF_*` settings with which api and worker reach it."""


class LocalServer(Part):
    """A server of the infrastructure, with a port, a password and a folder of its own.

    `package` brings `program`, a pattern of its path. `settings` are the settings that name another
    server instead, all or none; the first is its address.
    """

    package: str
    program: str
    settings: tuple[str, ...]
    stop_signal = signal.SIGTERM
    stop_grace_s = 10.0
    ready_timeout_s = 30.0

    def __init__(self, home: StateDir) -> None:
        self._program = self.find_program()
        self._port = home.port(self.name)
        self._password = home.credential(self.name)
        self._folder = home.folder(self.name)

    @classmethod
    def find_program(cls) -> Path:
        """The installed program. Raises StackError where the package is missing.

        The package's list of files has it, whether it went beside the modules or into the scripts
        folder, which need not be on the PATH. The package is not imported: that runs its own code.
        """
        try:
            programs = [file for file in files(cls.package) or () if file.match(cls.program)]
        except PackageNotFoundError:
            programs = []
        if not programs:
            raise StackError(
                f"the package {cls.package} is not installed: install dreamforge's dependencies, "
                f"or set {', '.join(cls.settings)}"
            )
        program = Path(str(programs[0].locate()))
        return program.parent.resolve() / program.name

    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def admin_url(self) -> str | None:
        """For the migration alone, where the part has a role that may make roles."""
        return None

    def _command(
        self, *argv: str, identity: Identity | None = None, stdin: str = "", **environ: str
    ) -> Command:
        """Run a program with `environ` and what it cannot do without; nothing else of ours."""
        environ |= {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }
        return Command(argv=argv, environ=environ, cwd=self._folder, identity=identity, stdin=stdin)


def pick(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    """Those settings that are set and not empty."""
    return {name: environ[name] for name in names if environ.get(name)}


_BODY_BYTES = 1 << 16  # a page about a worker with many slots and models has less


def http_not_ready(address: str, path: str) -> str | None:
    """None when `http://address/path` answers 200, else why not. No proxy is asked on the way."""
    try:
        status, body = http_get(address, path)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return None if status == 200 else f"answers {status} {body}".strip()


def http_get(address: str, path: str) -> tuple[int, str]:
    """Status and begin of the body of `http://address/path`. No proxy is asked on the way.

    Raises `OSError` and `http.client.HTTPException`.
    """
    link = http.client.HTTPConnection(address, timeout=1)
    try:
        link.request("GET", path)
        answer = link.getresponse()
        return answer.status, answer.read(_BODY_BYTES).decode(errors="replace")
    finally:
        link.close()
