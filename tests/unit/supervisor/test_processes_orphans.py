"""What outlived its worker, and what cannot be killed. The processes are real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from shared.linux.child import MARKER
from shared.linux.file_lock import FileLock
from supervisor.processes import orphans
from supervisor.processes.orphans import kill_orphans
from supervisor.processes.tree import is_alive
from supervisor.processes.worker_mark import worker_lock, worker_mark


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    worker = uuid4()
    FileLock(worker_lock(tmp_path, worker)).release()
    mark = worker_mark(tmp_path, worker)
    process = subprocess.Popen(["/bin/sleep", "600"], env={MARKER: f"{mark}:1"})
    yield process
    process.kill()
    process.wait()


def test_an_orphan_is_killed_and_nobody_survives(
    tmp_path: Path, orphan: subprocess.Popen[bytes]
) -> None:
    process = psutil.Process(orphan.pid)
    assert kill_orphans(tmp_path) == []
    assert not is_alive(process)


@pytest.mark.parametrize("refusal", [None, psutil.AccessDenied])
def test_an_orphan_that_does_not_die_is_a_survivor_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    orphan: subprocess.Popen[bytes],
    refusal: type[Exception] | None,
) -> None:
    def kill(process: psutil.Process) -> None:
        if refusal is not None:
            raise refusal

    with monkeypatch.context() as patched:
        patched.setattr(psutil.Process, "kill", kill)
        patched.setattr(orphans, "WAIT_S", 0.2)
        (survivor,) = kill_orphans(tmp_path)
    assert survivor.pid == orphan.pid
    assert is_alive(survivor)
    orphan.kill()
    psutil.wait_procs([survivor], timeout=20)
    assert not is_alive(survivor)
