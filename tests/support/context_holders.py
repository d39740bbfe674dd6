"""Processes in the place of the one that holds a CUDA context. Spawn targets, one way each."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection

from tests.support.nvml_helpers import FOREVER_S
from tests.support.supervisor_link import SupervisorLink

from shared.linux.child import exit_now, isolate_process


def cannot(connection: Connection, parent_pid: int) -> None:
    """There is no context to be had."""
    isolate_process(parent_pid)
    link = SupervisorLink(connection)
    link.send({"error": "cuInit returned CUDA error 100"})
    link.receive()
    exit_now(0)


def hangs(connection: Connection, parent_pid: int) -> None:
    isolate_process(parent_pid)
    time.sleep(FOREVER_S)


def dies(connection: Connection, parent_pid: int) -> None:
    isolate_process(parent_pid)
    os._exit(1)


def unseen(connection: Connection, parent_pid: int) -> None:
    """Reports that it holds a context, but NVML lists it by another id."""
    isolate_process(parent_pid)
    link = SupervisorLink(connection)
    link.send({"holding": True})
    link.receive()
    exit_now(0)
