"""How a child comes to be: its user, its end with us, its log."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cli.processes import exec_child, os_process, run_as
from cli.processes.child import Child, last_lines, spawn
from cli.processes.part import Command
from cli.processes.run_as import CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, NOBODY, Identity

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives children another user")

_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print('armed', flush=True)
time.sleep(60)
"""


def _finished(child: Child) -> int:
    deadline = time.monotonic() + 20
    while child.exit_code is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child.exit_code


def _run(tmp_path: Path, *argv: str, who: Identity | None = None) -> tuple[int, str]:
    log = tmp_path / "log"
    environ = {"PATH": os.defpath, "LC_ALL": "C"}  # without it Python sets LC_CTYPE for itself
    child = spawn(Command(argv=argv, environ=environ, cwd=Path("/"), identity=who), log)
    return _finished(child), log.read_text()


def test_a_child_leads_its_own_session_with_its_own_environment(tmp_path: Path) -> None:
    code, output = _run(tmp_path, "/bin/sh", "-c", "env; cut -d' ' -f1,6 /proc/$$/stat; exit 3")
    assert code == 3
    *environ, numbers = output.splitlines()
    assert {line.partition("=")[0] for line in environ} <= {"PATH", "LC_ALL", "PWD", "_"}
    pid, session = numbers.split()
    assert pid == session


def test_a_child_whose_parent_is_gone_already_does_not_begin(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    script = str(Path(exec_child.__file__))
    argv = [sys.executable, "-I", "-S", script, "1", "", "/usr/bin/touch", str(touched)]
    assert subprocess.run(argv).returncode == 1
    assert not touched.exists()


def test_a_stubborn_tree_is_killed_after_its_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = (sys.executable, "-c", _STUBBORN)
    child = spawn(Command(argv=argv, environ={}, cwd=tmp_path), log)
    deadline = time.monotonic() + 20
    while "armed" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    tree = os_process.family(psutil.Process(child.pid))
    assert len(tree) == 2
    child.stop(signal.SIGTERM, 0.1)
    assert child.exit_text == "killed by SIGKILL"
    assert os_process.wait_gone(tree, 0.0) == set()


@as_root
def test_another_user_without_capabilities_cannot_enter_a_closed_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "data").write_text("found")
    script = f"id -u; cat {closed / 'data'}"
    code, output = _run(tmp_path, "/bin/sh", "-c", script, who=Identity(uid=NOBODY, gid=NOBODY))
    assert output.splitlines()[0] == str(NOBODY)
    assert code != 0


@as_root
def test_another_user_keeps_the_one_capability_that_opens_its_way(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "data").write_text("found\n")
    who = run_as.for_database(Path("/bin/sh"), closed / "data")
    assert who is not None
    assert who.capability in {CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE}
    script = f"cat {closed / 'data'}; test -r {closed / 'data'} && grep CapEff /proc/self/status"
    code, output = _run(tmp_path, "/bin/sh", "-c", script, who=who)
    assert code == 0
    assert output.split() == ["found", "CapEff:", f"{1 << who.capability:016x}"]


@as_root
def test_no_capability_is_given_where_none_is_needed() -> None:
    who = run_as.for_database(Path("/bin/sh"), Path("/var/empty-home/postgres"))
    assert who == Identity(uid=NOBODY, gid=NOBODY)


@as_root
def test_data_that_has_an_owner_is_served_by_that_owner(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    data.mkdir()
    os.chown(data, 4242, 4343)
    who = run_as.for_database(Path("/bin/sh"), data)
    assert who is not None
    assert (who.uid, who.gid) == (4242, 4343)


def test_an_ordinary_user_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run_as.for_database(Path("/bin/sh"), tmp_path) is None


def test_a_log_is_shown_by_its_end_with_long_lines_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_lines(log) == ""
    log.write_text("\n".join(["first", *(str(n) for n in range(20)), "x" * 5000]))
    shown = last_lines(log, 3).splitlines()
    assert [line.strip()[:3] for line in shown] == ["18", "19", "xxx"]
    assert len(shown[-1]) < 400
