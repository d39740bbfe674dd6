"""A recorded child is believed by pid, start time, boot and marker together."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cli.processes import orphans, os_process
from cli.processes.child import Child, spawn
from cli.processes.orphans import MARKER
from cli.processes.part import Command
from cli.state_dir import StateDir
from shared.linux import proc


@pytest.fixture
def home(tmp_path: Path) -> StateDir:
    return StateDir(tmp_path)


@pytest.fixture
def child(home: StateDir, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    """A recorded one; the search by marker, which would find it too, finds nothing."""
    monkeypatch.setattr(os_process, "with_environ", lambda name, value: set())
    command = Command(argv=("/bin/sleep", "60"), environ={MARKER: str(home.path)}, cwd=home.path)
    child = spawn(command, home.log("sleep"))
    # While a process executes another program, its environment reads as empty for a moment.
    while psutil.Process(child.pid).name() != "sleep":
        time.sleep(0.01)
    orphans.record_children(home, {"broker": child})
    yield child
    child.kill()


def rewrite(home: StateDir, **changes: object) -> None:
    home.write("children.json", home.read("children.json") | changes)


def test_a_recorded_child_is_found_and_ended(home: StateDir, child: Child) -> None:
    assert orphans.find(home) == {psutil.Process(child.pid)}
    assert orphans.end_all(home) == 1
    assert child.exit_text == "killed by SIGKILL"
    assert orphans.find(home) == set()


def test_another_process_with_the_recorded_pid_is_not_believed(
    home: StateDir, child: Child
) -> None:
    rewrite(home, children={"broker": [child.pid, child.start_ticks - 1]})
    assert orphans.find(home) == set()


def test_a_process_without_our_marker_is_not_believed(home: StateDir, child: Child) -> None:
    with subprocess.Popen(["/bin/sleep", "60"], env={}) as stranger:
        start_ticks = os_process.start_ticks(psutil.Process(stranger.pid))
        rewrite(home, children={"broker": [stranger.pid, start_ticks]})
        assert orphans.find(home) == set()
        stranger.kill()


def test_a_child_that_hides_its_environment_is_believed_by_its_record(
    home: StateDir, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(pid: int, name: str) -> str:
        raise PermissionError

    monkeypatch.setattr(proc, "environment_value", hidden)
    assert orphans.find(home) == {psutil.Process(child.pid)}
