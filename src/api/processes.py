"""Several api processes that share one listening socket (`DF_API_PROCESSES`).

uvicorn's supervisor spawns them and ends them when it is ended; one that dies is replaced. All
accept from the socket that the parent has bound. So the kernel keeps connections that arrive while
a process is being replaced, and a port of 0 works. SO_REUSEPORT would give each its own queue, and
what waits in the queue of a process that dies is lost.

What is per process and what is not: streams and their bound, connections to PostgreSQL, and what
creates are planned with are each process's own; limits on a user's jobs are counted in PostgreSQL
and hold over all; `/metrics` shows the sum of all, whichever process answers.
"""

import logging
import os
import signal
import time
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from socket import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from api.app import create_app
from api.metrics_folder import hold, metrics_folder
from api.middleware.http_protocol import Protocol
from shared.linux.prctl import PR_SET_PDEATHSIG, hide_from_others, prctl
from shared.settings import Settings
from shared.strict_http import IDLE_TIMEOUT_S
from shared.telemetry.log_format import configure_logging

log = logging.getLogger(__name__)

# Requests in flight at the end get this long; streams end at once.
GRACEFUL_S = 10
# From the signal to the kill of a process that has not ended: the above, and closing connections.
END_S = 15
# Where prometheus-client keeps the counts of several processes; it reads this when it is imported.
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def serve_processes(settings: Settings, listener: socket) -> bool:
    """Serve until a signal. False when a process could not start, which ends all of them."""
    with metrics_folder() as folder:
        os.environ[_METRICS_FOLDER] = str(folder)
        supervisor = Supervisor(
            server_config(
                partial(counting_app, settings, folder), processes=settings.api_processes
            ),
            sockets=[listener],
        )
        supervisor.run()
    return all(process.exitcode != STARTUP_FAILURE for process in supervisor.processes)


class Supervisor(Multiprocess):
    """uvicorn's, which only ever waits for what ends.

    uvicorn asks each process for a sign of life and waits for it, for longer than a process takes
    to import its code on a busy machine. While it waits it acts on no signal, and one that has
    just ended answers never: a Ctrl-C during the start would take as long as the wait.
    """

    def keep_subprocess_alive(self) -> None:
        """Replace those that ended, unless they could not start: then all end."""
        for index, ended in enumerate(self.processes):
            if ended.exitcode is None or self.should_exit.is_set():
                continue
            if ended.exitcode == STARTUP_FAILURE:
                self.should_exit.set()
                return
            self.processes[index] = Process(self.config, self.sockets)
            self.processes[index].start()
            log.error(
                "api: process %s ended with %s, %s takes its place",
                ended.pid,
                ended.exitcode,
                self.processes[index].pid,
            )

    def handle_hup(self) -> None:
        """The terminal closes: end, as one process does, where uvicorn would start all anew."""
        self.should_exit.set()

    def join_all(self) -> None:
        """Return when all have ended. One that does not, stopped or stuck, is killed."""
        deadline = time.monotonic() + END_S
        for process in self.processes:
            process.process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                log.error("api: process %s did not end within %d s, killed", process.pid, END_S)
                process.kill()
                process.join()


def counting_app(settings: Settings, folder: Path) -> FastAPI:
    """The application of one of the processes, which keeps the folder that all count in."""
    hold(folder)
    return child_app(settings)


def child_app(settings: Settings) -> FastAPI:
    """The application of one of the processes. It ends when its parent does, even by SIGKILL."""
    hide_from_others()
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = parent_process()
    if parent is not None and not parent.is_alive():  # before the line above
        raise SystemExit(0)
    configure_logging(settings.log_level)
    return create_app(settings)


def server_config(app: FastAPI | partial[FastAPI], *, processes: int = 1) -> uvicorn.Config:
    """How uvicorn serves `app`, or what makes it in each of several processes."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, partial),
        workers=processes,
        http=Protocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_S,
        timeout_keep_alive=IDLE_TIMEOUT_S,
        lifespan="on",
    )
