"""Spawn a child of the stack, and end it.

Each child leads its own session (a terminal's Ctrl-C reaches us alone) and dies with us:
exec_child.py asks the kernel for that. The kernel kills it when the *thread* that spawned it ends,
so spawn from the main thread only.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from cli.files import named
from cli.processes import os_process
from cli.processes.part import Command
from cli.state_dir import close_to_others

_EXEC_CHILD = Path(__file__).with_name("exec_child.py")
_LOG_LIMIT_BYTES = 10 << 20
_TAIL_BYTES = 32 << 10
_LINE_LIMIT = 300  # characters; a trace in one JSON line would hide what matters


class Child:
    """One running process of the stack."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen = popen
        self.log = log
        # Until we reap it the pid cannot be reused, so this is our child even if it has died.
        self._process = psutil.Process(popen.pid)
        self.start_ticks = os_process.start_ticks(self._process)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives, else the code, negative for a signal; reaps."""
        return self._popen.poll()

    @property
    def exit_text(self) -> str:
        code = self.exit_code
        if code is None:
            return "running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def stop(
        self, signum: signal.Signals, grace_s: float, skip_grace: Callable[[], bool] = lambda: False
    ) -> None:
        """Signal, wait, kill the whole tree; returns when none of it is left and it is reaped."""
        tree = os_process.family(self._process) if self.exit_code is None else set()
        os_process.send(self._process, signum)
        left = os_process.wait_gone(tree, grace_s, skip_grace)
        if left:
            os_process.kill(left | os_process.family(self._process))
        self._popen.wait()

    def kill(self) -> None:
        """SIGKILL this one process, as a crash would, and reap it."""
        os_process.send(self._process, signal.SIGKILL)
        self._popen.wait()


def spawn(command: Command, log: Path) -> Child:
    """Start a child whose output is appended to `log`."""
    identity = "" if command.identity is None else str(command.identity)
    argv = (sys.executable, "-I", "-S", str(_EXEC_CHILD), str(os.getpid()), identity, *command.argv)
    rotate(log)
    with open(log, "ab", opener=_private) as output:
        popen = subprocess.Popen(  # noqa: S603 - argv is ours
            argv,
            env=dict(command.environ),
            cwd=command.cwd,
            stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if popen.stdin is not None:
        # The exit code and the log of a helper that died already say why.
        with contextlib.suppress(BrokenPipeError), popen.stdin as pipe:
            pipe.write(command.stdin.encode())
    return Child(popen, log)


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log, for the message that says that its writer died."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"    {line[:_LINE_LIMIT]}" for line in lines[-count:])


def rotate(log: Path) -> None:
    """Move the end of a log to `.log.1` where the log is over its limit. Its writer may be running.

    A child holds the file open and appends to it, so the file stays: its last bytes, as many as the
    limit, are copied, then it is emptied. A writer may be faster than the copy, so what comes after
    its start is lost. The log is emptied in any case, on a full disk above all.
    """
    if not log.exists() or (size_bytes := log.stat().st_size) <= _LOG_LIMIT_BYTES:
        return
    old = log.with_suffix(".log.1")
    try:
        with named(old), log.open("rb") as reader, open(old, "wb", opener=_private) as writer:
            reader.seek(size_bytes - _LOG_LIMIT_BYTES)
            writer.write(reader.read(_LOG_LIMIT_BYTES))
    finally:
        os.truncate(log, 0)


def _private(path: str, flags: int) -> int:
    """Open a file that only its owner may read: a log shows addresses and prompts."""
    fd = os.open(path, flags, 0o600)
    close_to_others(fd)
    return fd
