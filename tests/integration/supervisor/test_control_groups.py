"""Steps in control groups of the kernel: what is over its bound ends alone, and is told apart.

Skipped, with the reason, where this process may make no groups.
"""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from tests.support import runners
from tests.support.control_groups import need_groups
from tests.support.harness import Bench, serving, until

from shared.states import Reason
from supervisor.processes import control_groups
from supervisor.processes.control_groups import SERVICES, ControlGroups, open_groups
from supervisor.processes.worker_mark import worker_mark

MOST = 512 << 20


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[ControlGroups]:
    need_groups()
    groups = open_groups(tmp_path, worker_mark(tmp_path, uuid4()), MOST)
    try:
        yield groups
        left = [path for path in (groups.folder).iterdir() if path.is_dir()]
        assert [path.name for path in left] == ["idle"], "the group of a step is left"
    finally:
        groups.close()


def serve(
    test: Callable[[Bench], Awaitable[None]], groups: ControlGroups, **options: object
) -> None:
    async def main() -> None:
        changes = {"max_attempts": 1, "max_losses": 1} | options
        async with serving(runners.main, slots=2, groups=groups, **changes) as bench:  # type: ignore[arg-type]
            await bench.begun()
            await test(bench)

    anyio.run(main)


@pytest.mark.parametrize("start", ["spawn", "template"])
def test_a_step_that_takes_too_much_memory_ends_alone_as_host_oom(
    groups: ControlGroups, start: str
) -> None:
    async def test(bench: Bench) -> None:
        neighbour = bench.submit("polite")
        await bench.running(neighbour)
        greedy = await bench.ended(bench.submit("takes_memory"))
        assert greedy.reason is Reason.HOST_OOM
        error = greedy.error or {}
        assert error["details"]["limit_bytes"] == MOST // 2
        assert error["details"]["oom_kills"] >= 1
        assert "than its slot has" in error["message"]
        assert bench.step(neighbour).reason is None, "its neighbour was ended too"
        bench.store.request_cancel(neighbour)
        await bench.ended(neighbour)

    serve(test, groups, runner_start=start)


def test_a_bomb_of_forks_stays_in_its_step(
    groups: ControlGroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_groups, "MAX_TASKS", 64)
    told = tmp_path / "told"

    async def test(bench: Bench) -> None:
        bomb, neighbour = bench.submit(f"forks_without_end {told}"), bench.submit("quick")
        assert (await bench.ended(neighbour)).reason is Reason.COMPLETED
        assert (await bench.ended(bomb)).reason is Reason.TIMEOUT
        await bench.in_state("free")

    serve(test, groups, timeout_s=3.0)
    count, number = told.read_text().split()
    assert 0 < int(count) < 64
    assert int(number) == errno.EAGAIN


def test_a_process_that_has_left_everything_else_is_killed_by_its_group(
    groups: ControlGroups,
) -> None:
    async def test(bench: Bench) -> None:
        for prompt in ("leaves_forged_grandchild", "leaves_nameless_grandchild"):
            assert (await bench.ended(bench.submit(prompt))).reason is Reason.COMPLETED
            await bench.in_state("free")

    serve(test, groups)


def test_what_a_killed_worker_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    need_groups()
    script = (
        "import os, signal, sys, subprocess\n"
        "from pathlib import Path\n"
        "from uuid import uuid4\n"
        "from supervisor.processes.control_groups import open_groups\n"
        "from supervisor.processes.worker_mark import worker_mark\n"
        "folder = Path(sys.argv[1])\n"
        "groups = open_groups(folder, worker_mark(folder, uuid4()), 1 << 30)\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "groups.open_step(child.pid, need_bytes=0, slots=1)\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    assert Path(f"/proc/{pid}").exists()
    groups = open_groups(tmp_path, worker_mark(tmp_path, uuid4()), MOST)
    try:
        anyio.run(until, lambda: not _lives(pid), "its process is gone")
        names = {path.name for path in groups.base.iterdir() if path.name.startswith("dreamforge.")}
        assert len(names) == 2
        assert SERVICES in names
    finally:
        groups.close()


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
