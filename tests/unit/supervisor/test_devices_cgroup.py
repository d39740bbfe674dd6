"""Memory of the host, and of control groups that allow less, in both versions."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from supervisor.devices.cgroup import MemoryGroups

V2 = "1:name=systemd:/other\n0::/slice/ours\n"
V1 = "5:cpu,cpuacct:/other\n4:memory:/slice/ours\n0::/slice/ours\n"


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=1000, available=500)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def groups(root: Path, own: str | None, files: dict[str, str | int]) -> MemoryGroups:
    for name, content in files.items():
        path = root / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    if own is not None:
        (root / "own").write_text(own)
    return MemoryGroups(root / "own", root / "mount")


OURS: dict[str, str | int] = {
    "slice/ours/memory.current": 40,
    "slice/ours/memory.events": "low 0\noom 3\noom_kill 2",
}


@pytest.mark.parametrize(
    ("own", "files", "total_bytes", "free_bytes", "oom_kills"),
    [
        (V2, OURS | {"slice/ours/memory.max": 100}, 100, 60, 2),
        (V2, OURS | {"slice/ours/memory.max": 5000}, 1000, 500, 2),
        (V2, OURS | {"slice/ours/memory.max": "max"}, 1000, 500, 2),
        (V2, OURS | {"slice/ours/memory.high": 90, "slice/ours/memory.max": 100}, 90, 50, 2),
        (V2, OURS | {"slice/memory.current": 150, "slice/memory.max": 200}, 200, 50, 2),
        (V2, OURS | {"memory.current": 150, "memory.max": 300}, 300, 150, 2),
        (
            V2,
            OURS
            | {"slice/ours/memory.max": 100, "slice/memory.current": 195, "slice/memory.max": 200},
            100,
            5,
            2,
        ),
        # A container that sees its own group at the mount, under the host's name of it.
        ("0::/kubepods/pod/x\n", {"memory.current": 40, "memory.max": 100}, 100, 60, 0),
        ("0::/../../x\n", {"memory.current": 40, "memory.max": 100}, 100, 60, 0),
        ("0::/\n", {"memory.current": 40, "memory.max": 100}, 100, 60, 0),
        (
            V1,
            {
                "memory/slice/ours/memory.usage_in_bytes": 40,
                "memory/slice/ours/memory.limit_in_bytes": 100,
                "memory/slice/ours/memory.oom_control": "oom_kill_disable 0\noom_kill 4",
            },
            100,
            60,
            4,
        ),
        (
            V1,
            {
                "memory/slice/ours/memory.usage_in_bytes": 40,
                "memory/slice/ours/memory.limit_in_bytes": 9223372036854771712,
                "memory/slice/memory.usage_in_bytes": 80,
                "memory/slice/memory.limit_in_bytes": 200,
            },
            200,
            120,
            0,
        ),
        ("1:name=systemd:/other\n", {}, 1000, 500, 0),
        ("", {}, 1000, 500, 0),
        (None, {}, 1000, 500, 0),
    ],
)
def test_the_smallest_of_host_and_control_groups_counts(
    tmp_path: Path,
    own: str | None,
    files: dict[str, str | int],
    total_bytes: int,
    free_bytes: int,
    oom_kills: int,
) -> None:
    found = groups(tmp_path, own, files)
    assert found.total_bytes() == total_bytes
    assert found.free_bytes() == free_bytes
    assert found.oom_kills() == oom_kills


@pytest.mark.parametrize(
    ("own", "prefix", "current", "limit", "line"),
    [
        (V2, "slice/ours/", "memory.current", "memory.max", "inactive_file"),
        (V2, "slice/", "memory.current", "memory.max", "inactive_file"),
        (
            V1,
            "memory/slice/ours/",
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_pages_of_files_that_the_kernel_takes_back_are_free(
    tmp_path: Path, own: str, prefix: str, current: str, limit: str, line: str
) -> None:
    files: dict[str, str | int] = {
        f"{prefix}{current}": 390,
        f"{prefix}{limit}": 400,
        f"{prefix}memory.stat": f"anon 30\nfile 360\n{line} 350\nactive_file 10",
    }
    assert groups(tmp_path, own, files).free_bytes() == 360


@pytest.mark.parametrize("place", ["slice/ours/", "slice/"])
def test_a_group_that_is_killed_as_a_whole_is_named(tmp_path: Path, place: str) -> None:
    files = OURS | {f"{place}memory.current": 1, f"{place}memory.oom.group": 0}
    found = groups(tmp_path, V2, files)
    assert found.kills_together() is None
    (tmp_path / "mount" / place / "memory.oom.group").write_text("1\n")
    assert found.kills_together() == str(tmp_path / "mount" / place.rstrip("/"))


@pytest.mark.parametrize(
    ("stat", "events"),
    [
        ("inactive_file 90", "oom_kill 1"),  # more than is used, for a moment
        ("", ""),
        ("inactive_file", "oom_kill"),
        ("inactive_file 1 2", "oom_kill -1"),
        ("a b c\n\ninactive_file x", "\0"),
    ],
)
def test_files_that_are_not_as_usual_end_nothing_and_free_nothing_beyond_the_limit(
    stat: str, events: str, tmp_path: Path
) -> None:
    files = OURS | {
        "slice/ours/memory.max": 100,
        "slice/ours/memory.stat": stat,
        "slice/ours/memory.events": events,
    }
    memory = groups(tmp_path, V2, files)
    assert 60 <= memory.free_bytes() <= 100
    assert memory.oom_kills() in (0, 1)


def test_a_group_whose_name_is_no_utf_8_is_read(tmp_path: Path) -> None:
    folder = os.fsdecode(b"caf\xe9")
    memory = groups(tmp_path, "", {f"{folder}/memory.current": 40, f"{folder}/memory.max": 100})
    (tmp_path / "own").write_bytes(b"0::/caf\xe9\n")
    assert memory.free_bytes() == 60
