"""Our two services as parts: `python -m api` and `python -m supervisor`.

They get the caller's environment plus the settings of the stack. `-P` keeps the current folder
from the module path: a folder named `api` in another project is not our api.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import StackError
from cli.processes.part import Command, Helper, Part, http_not_ready
from cli.state_dir import StateDir, port_is_free, reachable
from shared.timings import TIMINGS

if TYPE_CHECKING:  # at run time the settings library costs a quarter of a second
    from shared.settings import Settings


@dataclass(kw_only=True, repr=False)  # `environ` holds secrets
class Service(Part):
    """`api` or `worker`."""

    name: str
    title: str
    module: str
    host: str
    port: int
    stop_grace_s: float
    environ: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    ready_timeout_s: float = 90.0  # a worker imports torch to fill its standby

    def prepare(self, helper: Helper) -> None:
        """Nothing: the stack makes what a service needs before it (schema, bucket, models)."""

    def require_free_port(self) -> None:
        if not port_is_free(self.host, self.port):
            raise StackError(
                f"port {self.port} for the {self.name} is taken: end what uses it, or set "
                f"DF_{self.name.upper()}_PORT to another port"
            )

    def command(self) -> Command:
        return Command(
            argv=(sys.executable, "-P", "-m", self.module),
            environ=self.environ,
            cwd=Path.cwd(),
        )

    def not_ready(self) -> str | None:
        return http_not_ready(self.address(), "/readyz")

    def address(self) -> str:
        return f"{reachable(self.host)}:{self.port}"

    def environment(self) -> dict[str, str]:
        return {f"DF_{self.name.upper()}_PORT": str(self.port)}


def services(
    settings: Settings, environ: Mapping[str, str], home: StateDir
) -> tuple[Service, Service]:
    """Api and worker, with ports chosen where a setting says 0."""
    api_port = settings.api_port or home.port("api")
    worker_port = settings.worker_port or home.port("worker")
    environ = {**environ, "DF_API_PORT": str(api_port), "DF_WORKER_PORT": str(worker_port)}
    api = Service(
        name="api",
        title="api",
        module="api",
        host=settings.api_host,
        port=api_port,
        stop_grace_s=10.0,  # open streams are cut, clients resume them
        environ=environ,
    )
    worker = Service(
        name="worker",
        title="worker",
        module="supervisor",
        host=settings.worker_host,
        port=worker_port,
        # Running steps may finish; publishing to a store that is down is not waited for.
        stop_grace_s=settings.drain_s + TIMINGS.term_grace_s + TIMINGS.kill_deadline_s + 10.0,
        environ=environ,
    )
    return api, worker
