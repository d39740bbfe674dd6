"""The infrastructure of one state folder: which parts to start, which are there already."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from cli.backends import admin_url
from cli.errors import StackError
from cli.processes import orphans, signals
from cli.processes.part import Part, pick
from cli.processes.process_manager import ProcessManager
from cli.servers.embedded import SERVERS
from cli.stack import external
from cli.stack.external import ExternalPart
from cli.state_dir import StateDir
from shared.linux.prctl import hide_from_others


@dataclass(frozen=True)
class Address:
    """A row of the table that `up` shows."""

    title: str
    where: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which parts to start, and which are there already. Nothing runs yet.

    `admin_url` is for the migration; no service gets it.
    """

    parts: tuple[Part, ...]
    external: tuple[ExternalPart, ...]
    environment: dict[str, str]
    admin_url: str | None

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (
            *(Address(part.title, part.address()) for part in self.parts),
            *(Address(part.title, part.address, f"from {part.setting}") for part in self.external),
        )

    def start(self, manager: ProcessManager) -> None:
        """Start our parts; raises StackError with a line for each external one that is away."""
        problems = [line for part in self.external if (line := part.unreachable()) is not None]
        if problems:
            raise StackError("\n".join(problems))
        manager.start(self.parts)


def plan(home: StateDir, environ: Mapping[str, str]) -> Plan:
    """Choose ports and keys for the parts that `environ` does not name. Needs the folder's lock."""
    choices = [(server, external.find(server, environ)) for server in SERVERS]
    parts = tuple(server(home) for server, elsewhere in choices if elsewhere is None)
    environment = pick(environ, *(name for server in SERVERS for name in server.settings))
    environment["DF_MODELS_DIR"] = environ.get("DF_MODELS_DIR") or str(home.path / "models")
    for part in parts:
        environment |= part.environment()
    return Plan(
        parts=parts,
        external=tuple(elsewhere for _, elsewhere in choices if elsewhere is not None),
        environment=environment,
        admin_url=next((url for part in parts if (url := part.admin_url())), admin_url(environ)),
    )


@contextmanager
def manage_processes(home: StateDir, notify: Callable[[str], None]) -> Iterator[ProcessManager]:
    """Own the state folder: end what a killed stack left, and stop everything at the end.

    From now on this process is hidden: it has the keys of all parts.
    """
    hide_from_others()
    with home.lock():
        ended = orphans.end_all(home)
        if ended:
            notify(f"ended {ended} processes that an earlier start had left behind")
        manager = ProcessManager(home, notify)
        try:
            yield manager
        except signals.Interrupt:
            notify("stopping; Ctrl-C again kills at once")
            raise
        finally:
            manager.stop()
