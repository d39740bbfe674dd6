"""The infrastructure of one state folder, started for the length of a `with` block.

    with infrastructure(Path(".dreamforge"), os.environ) as stack:
        subprocess.run([sys.executable, "-m", "api"], env=os.environ | stack.environment)

Importing this module starts nothing and loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.errors import StackError
from cli.stack import external, orphans, signals
from cli.stack.broker import Broker
from cli.stack.external import ExternalPart
from cli.stack.part import Part, pick
from cli.stack.postgres import Postgres
from cli.stack.process_manager import ProcessManager
from cli.stack.store import Store
from cli.state_dir import StateDir

_SETTINGS = (
    "DF_DATABASE_URL",
    "DF_REDIS_URL",
    "DF_S3_ENDPOINT",
    "DF_S3_ACCESS_KEY",
    "DF_S3_SECRET_KEY",
)


@dataclass(frozen=True, kw_only=True)
class Address:
    """A row of the table that `up` shows."""

    title: str
    where: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be started and what is there already. Nothing runs yet."""

    parts: tuple[Part, ...]
    given: tuple[ExternalPart, ...]
    environment: dict[str, str]

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (
            *(Address(title=part.title, where=part.address()) for part in self.parts),
            *(
                Address(title=part.title, where=part.address, note=f"from {part.setting}")
                for part in self.given
            ),
        )

    def start(self, manager: ProcessManager) -> None:
        """Start our parts; raises StackError with a line for each given one that is not there."""
        complaints = [line for part in self.given if (line := part.unreachable()) is not None]
        if complaints:
            raise StackError("\n".join(complaints))
        manager.start(self.parts)


def plan(home: StateDir, environ: Mapping[str, str]) -> Plan:
    """Choose ports and keys for the parts that `environ` does not name. Needs the folder's lock."""
    choices: tuple[tuple[ExternalPart | None, Callable[[StateDir], Part]], ...] = (
        (external.database(environ), Postgres),
        (external.broker(environ), Broker),
        (external.store(environ), Store),
    )
    parts = tuple(make(home) for given, make in choices if given is None)
    environment = pick(environ, *_SETTINGS)
    environment["DF_MODELS_DIR"] = environ.get("DF_MODELS_DIR") or str(home.path / "models")
    for part in parts:
        environment |= part.environment()
    return Plan(
        parts=parts,
        given=tuple(given for given, _ in choices if given is not None),
        environment=environment,
    )


@dataclass(frozen=True, kw_only=True)
class Infrastructure:
    """A running stack: `environment` is what api and worker need on top of the caller's own."""

    home: StateDir
    manager: ProcessManager
    environment: dict[str, str]
    addresses: tuple[Address, ...]

    @property
    def pids(self) -> dict[str, int]:
        """Of the parts that we run: `postgres`, `broker`, `store`."""
        return self.manager.pids()

    def kill(self, name: str) -> None:
        """`kill -9` the part's main process and reap it; it stays down until `restart`."""
        self.manager.kill(name)

    def stop(self, name: str) -> None:
        """Stop the part politely; it stays down until `restart`."""
        self.manager.stop_part(name)

    def restart(self, name: str) -> None:
        """Start the part on its old port and wait until it serves."""
        self.manager.restart(name)


@contextmanager
def manage_processes(home: StateDir, notify: Callable[[str], None]) -> Iterator[ProcessManager]:
    """Own the state folder: clean what a killed start left, stop everything at the end."""
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


@contextmanager
def infrastructure(
    home: Path, environ: Mapping[str, str], notify: Callable[[str], None] = lambda line: None
) -> Iterator[Infrastructure]:
    """PostgreSQL, broker and store, ready to use; all of it is gone after the block.

    A part that `environ` names (`DF_DATABASE_URL`, `DF_REDIS_URL`, `DF_S3_*`) is used instead of
    ours. `notify` gets each line worth showing. Raises StackError with what to do.
    """
    folder = StateDir(home)
    with manage_processes(folder, notify) as manager:
        planned = plan(folder, environ)
        planned.start(manager)
        yield Infrastructure(
            home=folder,
            manager=manager,
            environment=planned.environment,
            addresses=planned.addresses,
        )
