"""PostgreSQL, broker and store as `dreamforge up` starts them, for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.processes.process_manager import ProcessManager
from cli.stack.infrastructure import Address, manage_processes, plan
from cli.state_dir import StateDir


@dataclass(frozen=True, kw_only=True)
class Infrastructure:
    """A running stack: `services` is what api and worker need on top of the caller's own.

    `environment` is the same with the database's superuser: tests make and empty databases.
    """

    home: StateDir
    manager: ProcessManager
    environment: dict[str, str]
    services: dict[str, str]
    addresses: tuple[Address, ...]

    @property
    def pids(self) -> dict[str, int]:
        """Of the parts that we run: `postgres`, `broker`, `store`."""
        return {name: managed.child.pid for name, managed in self.manager.parts.items()}

    def kill(self, name: str) -> None:
        """`kill -9` the part's main process and reap it; it stays down until `restart`."""
        self.manager.parts[name].child.kill()

    def stop(self, name: str) -> None:
        """Stop the part politely; it stays down until `restart`."""
        managed = self.manager.parts[name]
        managed.child.stop(managed.part.stop_signal, managed.part.stop_grace_s)

    def restart(self, name: str) -> None:
        """Start the part on its old port and wait until it serves; stop it first if it runs."""
        if self.manager.parts[name].child.exit_code is None:
            self.stop(name)
        self.manager.start([self.manager.parts[name].part])


@contextmanager
def infrastructure(
    home: Path, environ: Mapping[str, str], notify: Callable[[str], None] = lambda line: None
) -> Iterator[Infrastructure]:
    """The three parts, ready to use; all of them are gone after the block.

    A part that `environ` names (`DF_DATABASE_URL`, `DF_REDIS_URL`, `DF_S3_*`) is used instead of
    ours. `notify` gets each line worth showing. Raises StackError with what to do.
    """
    folder = StateDir(home)
    with manage_processes(folder, notify) as manager:
        planned = plan(folder, environ)
        planned.start(manager)
        admin = {"DF_DATABASE_URL": planned.admin_url} if planned.admin_url else {}
        yield Infrastructure(
            home=folder,
            manager=manager,
            environment=planned.environment | admin,
            services=planned.environment,
            addresses=planned.addresses,
        )
