"""The marker that names the worker of a process."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from supervisor.processes.worker_mark import marked_worker, worker_mark


def test_a_marker_names_its_worker_to_those_who_can_see_its_lock(tmp_path: Path) -> None:
    worker = uuid4()
    marker = f"{worker_mark(tmp_path, worker)}:7"
    assert marked_worker(tmp_path, marker) == worker
    assert marked_worker(tmp_path / "elsewhere", marker) is None
    for other in ("", "x", f"{worker_mark(tmp_path, worker)[:12]}:no-uuid:7"):
        assert marked_worker(tmp_path, other) is None
