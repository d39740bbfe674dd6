"""Processes are named by pid and start time, and a tree is found before it is orphaned."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.stack import processes
from cli.stack.processes import Proc

_SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
_PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)",
]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(_SLEEP, env={"DREAM_MARK": "a b"}) as process:
        yield process
        process.kill()


def test_a_process_is_alive_until_killed(sleeper: subprocess.Popen[bytes]) -> None:
    proc = processes.identify(sleeper.pid)
    assert proc is not None
    assert processes.alive(proc)
    assert processes.kill([proc]) == set()
    assert not processes.alive(proc)  # a zombie until we reap it: gone all the same
    assert sleeper.wait() == -signal.SIGKILL


def test_a_recycled_pid_is_not_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    proc = processes.identify(sleeper.pid)
    assert proc is not None
    stranger = Proc(proc.pid, proc.start_ticks - 1)
    processes.send(stranger, signal.SIGKILL)
    assert not processes.alive(stranger)
    assert processes.alive(proc)


def test_the_family_holds_grandchildren() -> None:
    with subprocess.Popen(_PARENT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        grandchild = int(parent.stdout.readline())
        tree = processes.family(parent.pid)
        assert {proc.pid for proc in tree} == {parent.pid, grandchild}
        assert processes.kill(tree) == set()


def test_a_marker_in_the_environment_is_found(sleeper: subprocess.Popen[bytes]) -> None:
    assert processes.environ_value(sleeper.pid, "DREAM_MARK") == "a b"
    assert {proc.pid for proc in processes.with_environ("DREAM_MARK", "a b")} == {sleeper.pid}
    assert processes.with_environ("DREAM_MARK", "a") == set()


def test_waiting_ends_early_when_hurried(sleeper: subprocess.Popen[bytes]) -> None:
    proc = processes.identify(sleeper.pid)
    assert proc is not None
    assert processes.wait_gone([proc], 60.0, skip_grace=lambda: True) == {proc}


def test_a_name_with_brackets_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"]) as process:
        proc = processes.identify(process.pid)
        assert proc is not None
        assert proc.start_ticks > 0
        assert processes.kill([proc]) == set()
