"""Helpers that answer as the NVML one does, or fail as it can. Spawn targets, one way each."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from tests.support.supervisor_link import SupervisorLink

from shared.linux.child import exit_now, isolate_process
from shared.protocol.frames import PREFIX

TOTAL_BYTES = 8 << 30
RESERVED_BYTES = 300 << 20
FOREVER_S = 3600
CUDA = "libcuda.so.1"

Answer = dict[str, Any]


def _gpu(uuid: str, mps: bool = False) -> Answer:
    return {"uuid": uuid, "name": "fake GPU", "total_bytes": TOTAL_BYTES, "mps": mps} | {
        "reserved_bytes": RESERVED_BYTES
    }


def _reading(used: int, holders: dict[str, int] | None = None, mps: bool = False) -> Answer:
    return {
        "total_bytes": TOTAL_BYTES,
        "used_bytes": used,
        "free_bytes": TOTAL_BYTES - used - RESERVED_BYTES,
        "reserved_bytes": RESERVED_BYTES,
        "holders": holders or {},
        "mps": mps,
    }


def _listing(request: Answer, gpus: list[Answer]) -> Answer | None:
    """The answer to a question about which GPUs there are; None when it is another question."""
    match request["method"]:
        case "count":
            return {"count": len(gpus)}
        case "describe":
            return {"devices": [gpus[request["gpu"]]]}
    return None


def _serve(
    connection: Connection, parent_pid: int, answer: Callable[[Answer], Answer | None]
) -> None:
    """Answer questions until the other end closes; None: never answer this one."""
    isolate_process(parent_pid)
    link = SupervisorLink(connection)
    while (request := link.receive()) is not None:
        if (response := answer(request)) is None:
            time.sleep(FOREVER_S)
        else:
            link.send(response)
    exit_now(0)


def healthy(connection: Connection, parent_pid: int) -> None:
    """Two GPUs; the second has 2 GiB in use by process 77."""

    def answer(request: Answer) -> Answer:
        if listing := _listing(request, [_gpu("GPU-a"), _gpu("GPU-b")]):
            return listing
        if request["uuid"] == "GPU-b":
            return _reading(2 << 30, {"77": 2 << 30})
        return _reading(0)

    _serve(connection, parent_pid, answer)


def lists_holders(connection: Connection, parent_pid: int) -> None:
    """One GPU, held by init and by every process that has the stand-in for CUDA loaded."""

    def answer(request: Answer) -> Answer:
        if listing := _listing(request, [_gpu("GPU-a")]):
            return listing
        return _reading(0, {str(pid): 0 for pid in [1, *_with_cuda()]})

    _serve(connection, parent_pid, answer)


def _with_cuda() -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(OSError):
            if CUDA in Path(f"/proc/{process.pid}/maps").read_text():
                found.append(process.pid)
    return found


def slow_for_a(connection: Connection, parent_pid: int) -> None:
    """As `healthy`, but a question about GPU-a takes half a second."""

    def answer(request: Answer) -> Answer:
        if request.get("uuid") == "GPU-a":
            time.sleep(0.5)
            return _reading(1 << 30)
        return _reading(2 << 30)

    _serve(connection, parent_pid, answer)


def hangs(connection: Connection, parent_pid: int) -> None:
    _serve(connection, parent_pid, lambda request: None)


def lost(connection: Connection, parent_pid: int) -> None:
    _serve(connection, parent_pid, lambda request: {"error": "GPU is lost"})


def split_into_nothing(connection: Connection, parent_pid: int) -> None:
    """A GPU without MIG, and one with MIG enabled but no instance."""

    def answer(request: Answer) -> Answer:
        if request == {"method": "describe", "gpu": 1}:
            return {"devices": []}
        return _listing(request, [_gpu("GPU-a"), {}]) or _reading(0)

    _serve(connection, parent_pid, answer)


def unmeasured(connection: Connection, parent_pid: int) -> None:
    """A GPU that shares the host's memory, and one of its own."""

    def answer(request: Answer) -> Answer:
        shared = {"uuid": "GPU-u", "name": "shared", "unmeasured": "nothing could be verified"}
        return _listing(request, [shared, _gpu("GPU-a")]) or _reading(0)

    _serve(connection, parent_pid, answer)


def absent(connection: Connection, parent_pid: int) -> None:
    _serve(connection, parent_pid, lambda _: {"error": "Driver Not Loaded", "absent": True})


def under_mps(connection: Connection, parent_pid: int) -> None:
    _serve(connection, parent_pid, lambda request: _listing(request, [_gpu("GPU-a", mps=True)]))


def idle_mps(connection: Connection, parent_pid: int) -> None:
    """A daemon without a client is not seen, until the context holder becomes its first one."""

    def answer(request: Answer) -> Answer:
        return _listing(request, [_gpu("GPU-a")]) or _reading(0, mps=True)

    _serve(connection, parent_pid, answer)


def loses_a(connection: Connection, parent_pid: int) -> None:
    """Two GPUs, the first off the bus."""

    def answer(request: Answer) -> Answer:
        first = {"uuid": "GPU-a", "lost": "GPU is lost"}
        return _listing(request, [first, _gpu("GPU-b")]) or _reading(0)

    _serve(connection, parent_pid, answer)


def hangs_while_told(connection: Connection, parent_pid: int) -> None:
    """Two GPUs; a question about one is not answered while there is a file of its name."""
    folder = Path(os.environ["DREAMFORGE_RUNNER_HANGS"])

    def answer(request: Answer) -> Answer | None:
        if listing := _listing(request, [_gpu("GPU-a"), _gpu("GPU-b")]):
            return listing
        return None if (folder / request["uuid"]).exists() else _reading(0)

    _serve(connection, parent_pid, answer)


def hangs_for_a(connection: Connection, parent_pid: int) -> None:
    """Two GPUs, and whatever is asked about the first is never answered."""

    def answer(request: Answer) -> Answer | None:
        if request.get("gpu") == 0 or request.get("uuid") == "GPU-a":
            return None
        return _listing(request, [_gpu("GPU-a"), _gpu("GPU-b")]) or _reading(2 << 30)

    _serve(connection, parent_pid, answer)


def hangs_for_readings_of_a(connection: Connection, parent_pid: int) -> None:
    """The same, but the first GPU could be described."""

    def answer(request: Answer) -> Answer | None:
        if listing := _listing(request, [_gpu("GPU-a"), _gpu("GPU-b")]):
            return listing
        return None if request["uuid"] == "GPU-a" else _reading(2 << 30)

    _serve(connection, parent_pid, answer)


def dies(connection: Connection, parent_pid: int) -> None:
    isolate_process(parent_pid)
    SupervisorLink(connection).receive()
    os._exit(1)


def dies_in_the_middle(connection: Connection, parent_pid: int) -> None:
    isolate_process(parent_pid)
    link = SupervisorLink(connection)
    link.receive()
    link.raw(PREFIX.pack(100, 0) + b'{"total')
    os._exit(1)


# What a helper that was taken over would try. --------------------------------------------------


def prying(connection: Connection, parent_pid: int) -> None:
    """The real helper, but for its answer: which attacks have worked."""
    from unittest.mock import patch

    from supervisor.devices import nvml_server

    with patch.object(nvml_server, "answer", lambda request: {"done": attacks(request)}):
        nvml_server.main(connection, parent_pid)


def holds_and_pries(connection: Connection, parent_pid: int) -> None:
    """The real holder of a context, but for the context: it says which attacks have worked."""
    from unittest.mock import patch

    from supervisor.devices import context_holder

    def hold() -> None:
        raise OSError(" ".join(attacks({"folder": os.environ["TMPDIR"]})))

    with patch.object(context_holder, "hold_context", hold):
        context_holder.main(connection, parent_pid)


def attacks(request: Answer) -> list[str]:
    folder = Path(request["folder"])

    def fork() -> None:
        if (pid := os.fork()) == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    tried: dict[str, Callable[[], object]] = {
        "read": lambda: (folder / "secret").read_text(),
        "write": lambda: (folder / f"written-{os.getpid()}").write_text("x"),
        "connect": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        "send": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "fork": fork,
        "signal": lambda: os.kill(os.getppid(), 0),
    }
    done = []
    for name, attack in tried.items():
        try:
            attack()
        except ConnectionRefusedError:
            done.append(name)  # nobody listens, and nobody has refused it
        except OSError:
            continue
        else:
            done.append(name)
    return done
