"""Memory of the host, and of a control group that allows less."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from supervisor.devices import cgroup

GROUP = {
    "/proc/self/cgroup": "1:name=systemd:/other\n0::/ours\n",
    "/sys/fs/cgroup/ours/memory.current": "40\n",
    "/sys/fs/cgroup/ours/memory.events": "low 0\noom 3\noom_kill 2\n",
}


@pytest.mark.parametrize(
    ("files", "total_bytes", "free_bytes", "oom_kills"),
    [
        (GROUP | {"/sys/fs/cgroup/ours/memory.max": "100\n"}, 100, 60, 2),
        (GROUP | {"/sys/fs/cgroup/ours/memory.max": "5000\n"}, 1000, 500, 2),
        (GROUP | {"/sys/fs/cgroup/ours/memory.max": "max\n"}, 1000, 500, 2),
        ({"/proc/self/cgroup": "1:name=systemd:/other\n"}, 1000, 500, 0),
        ({}, 1000, 500, 0),
    ],
)
def test_the_smaller_of_host_and_control_group_counts(
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
    total_bytes: int,
    free_bytes: int,
    oom_kills: int,
) -> None:
    def read_text(path: Path) -> str:
        try:
            return files[str(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    monkeypatch.setattr(Path, "read_text", read_text)
    memory = SimpleNamespace(total=1000, available=500)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert cgroup.total_bytes() == total_bytes
    assert cgroup.free_bytes() == free_bytes
    assert cgroup.oom_kills() == oom_kills
