"""Processes that the benchmark starts: their end, their CPU time, their memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
STOP_S = 120.0  # a stack waits for 55 s for its worker
LOG_CHARACTERS = 2000
# Processes that only wait use less of one core than this; one that imports uses all of it.
IDLE_SHARE, IDLE_FOR_S, IDLE_WITHIN_S = 0.25, 0.5, 120.0


@contextmanager
def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    *,
    pipes: bool = False,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the folder of its `log`, ended by `stop`. It has no setting of the caller's.

    With `pipes` its input is closed first, and it ends by itself.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    pipe = subprocess.PIPE if pipes else None
    with open(log, "wb") as output:
        process = subprocess.Popen(  # noqa: S603 - the commands of this folder
            command,
            cwd=log.parent,  # where there is no `.env`
            env={**inherited, "PYTHONPATH": str(ROOT), **environment},
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is for the benchmark, which ends the others in order
        )
    try:
        yield process
    except Exception:
        sys.stderr.write(f"{log.name}: {_tail(log)}\n")
        raise
    finally:
        _end(process, stop)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:]


def _end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    if process.stdin is not None:
        process.stdin.close()
    else:
        process.send_signal(stop)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of these trees, with those of descendants that ended and were waited for."""
    total = 0.0
    for pid in pids:
        for process in tree(pid):
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # own and reaped, user and system
    return total


def settle(pids: Sequence[int]) -> None:
    """Wait until these trees only wait. Raises `RuntimeError` when that takes too long."""
    deadline = time.monotonic() + IDLE_WITHIN_S
    while time.monotonic() < deadline:
        before = cpu_s(pids)
        time.sleep(IDLE_FOR_S)
        if cpu_s(pids) - before < IDLE_SHARE * IDLE_FOR_S:
            return
    raise RuntimeError("the processes of the benchmark do not come to rest")


def private_mib(pids: Sequence[int]) -> float:
    """Memory that would be free if these processes ended, each alone."""
    return sum(_rollup(pid, "Private_Clean", "Private_Dirty") for pid in pids)


def shared_mib(pids: Sequence[int]) -> float:
    """Memory of these processes, with their part of what they share with others."""
    return sum(_rollup(pid, "Pss") for pid in pids)


def _rollup(pid: int, *names: str) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in names) / 1024
