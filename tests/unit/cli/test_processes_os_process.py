"""Processes are named by pid and start time, and a tree is found before it is orphaned."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.processes import os_process
from shared.linux import proc

_SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
_SPAWN = """
import subprocess, sys, time
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
else:
    print("the last of them", flush=True)
time.sleep(60)
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(_SLEEP, env={"DREAM_MARK": "a b"}) as process:
        yield process
        process.kill()


def former_owner(pid: int, procfs: Path, monkeypatch: pytest.MonkeyPatch) -> psutil.Process:
    """A process that had this pid and started one tick before the present one."""
    name, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    fields = rest.split(" ")
    fields[19] = str(int(fields[19]) - 1)
    (procfs / str(pid)).mkdir()
    (procfs / str(pid) / "stat").write_text(f"{name}) {' '.join(fields)}")
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "PROCFS_PATH", str(procfs))
        return psutil.Process(pid)


def test_a_process_is_alive_until_killed(sleeper: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(sleeper.pid)
    assert os_process.alive(process)
    assert os_process.kill([process]) == set()
    assert not os_process.alive(process)  # a zombie until we reap it: gone all the same
    assert os_process.find_living(sleeper.pid) is None
    assert sleeper.wait() == -signal.SIGKILL
    assert os_process.find_living(sleeper.pid) is None


def test_a_recycled_pid_is_not_signalled(
    sleeper: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = former_owner(sleeper.pid, tmp_path, monkeypatch)
    os_process.send(former, signal.SIGKILL)
    assert not os_process.alive(former)
    assert os_process.family(former) == set()
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.1)
    assert os_process.alive(psutil.Process(sleeper.pid))


def test_a_process_that_ends_before_its_signal_is_no_error(
    sleeper: subprocess.Popen[bytes],
) -> None:
    process = psutil.Process(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    os_process.send(process, signal.SIGTERM)
    assert os_process.family(process) == set()


def test_the_start_is_counted_in_the_kernels_ticks(sleeper: subprocess.Popen[bytes]) -> None:
    stat = Path(f"/proc/{sleeper.pid}/stat").read_text()
    assert os_process.start_ticks(psutil.Process(sleeper.pid)) == int(stat.split()[21])


def test_the_family_holds_grandchildren() -> None:
    family = [sys.executable, "-c", *[_SPAWN] * 3]
    with subprocess.Popen(family, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        tree = os_process.family(psutil.Process(parent.pid))
        assert len(tree) == 3
        assert psutil.Process(parent.pid) in tree
        assert os_process.kill(tree) == set()


def test_a_marker_in_the_environment_is_found(sleeper: subprocess.Popen[bytes]) -> None:
    assert proc.environment_value(sleeper.pid, "DREAM_MARK") == "a b"
    marked = os_process.with_environ("DREAM_MARK", "a b")
    assert {process.pid for process in marked} == {sleeper.pid}
    assert os_process.with_environ("DREAM_MARK", "a") == set()


def test_a_process_that_hides_its_environment_is_passed_over(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    readable = proc.environment_value

    def environment_value(pid: int, name: str) -> str | None:
        if pid == sleeper.pid:
            raise PermissionError
        return readable(pid, name)

    with subprocess.Popen(_SLEEP, env={"DREAM_MARK": "a b"}) as other:
        monkeypatch.setattr(proc, "environment_value", environment_value)
        marked = os_process.with_environ("DREAM_MARK", "a b")
        other.kill()
    assert {process.pid for process in marked} == {other.pid}


def test_waiting_ends_early_when_its_grace_is_skipped(sleeper: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(sleeper.pid)
    assert os_process.wait_gone([process], 60.0, skip_grace=lambda: True) == {process}


def test_a_name_with_brackets_does_not_confuse(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([odd, "60"]) as sleep:
        process = os_process.find_living(sleep.pid)
        assert process is not None
        assert os_process.start_ticks(process) > 0
        assert os_process.kill([process]) == set()


def test_a_number_that_is_no_pid_names_no_process() -> None:
    assert os_process.find_living(-5) is None  # as a single-user postgres writes its own
