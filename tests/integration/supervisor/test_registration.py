"""One worker per GPU, over the table of workers, where no file can be seen. A real table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.database import execute
from tests.support.worker_process import DEADLINE_S, Worker, until, workers

from shared.db.engine import Database
from shared.db.workers import live_workers
from shared.linux.file_lock import FileLock
from shared.readiness import NotReady
from shared.states import Priority
from shared.users import Serves
from supervisor.devices.device import Device
from supervisor.membership import registration
from supervisor.membership.heartbeat import Presence
from supervisor.membership.local_models import LocalModels
from supervisor.membership.registration import register_exclusive
from supervisor.processes.orphans import remove_dead_lock
from supervisor.processes.worker_mark import worker_lock
from supervisor.slots.table import SlotState, SlotTable


def device(name: str, kind: str = "cuda") -> Device:
    return Device(id=name, kind=kind, index=0, name="H", total_bytes=1, epsilon_bytes=0)


@dataclass(frozen=True)
class Host:
    """Makes workers that register themselves, and reads their rows."""

    database: Database
    url: str
    folder: Path

    def worker(
        self,
        *devices: Device,
        serves: Serves = Serves(),  # noqa: B008 - it is frozen
    ) -> tuple[UUID, Presence]:
        models, id = LocalModels(self.database, self.folder), uuid4()
        slots = SlotTable(list(devices))
        return id, Presence(id, self.database, slots, models, warm=tuple, serves=serves)

    def rows(self) -> set[UUID]:
        return {row[0] for row in self._execute("SELECT id FROM workers")}

    def age(self, worker: UUID, seconds: float) -> None:
        self._execute(
            "UPDATE workers SET heartbeat_at = heartbeat_at - make_interval(secs => %s) "
            "WHERE id = %s RETURNING id",
            seconds,
            worker,
        )

    def _execute(self, statement: str, *values: object) -> list[tuple[UUID]]:
        return execute(self.url, statement, *values)


def play(url: str, folder: Path, test: Callable[[Host], Awaitable[None]]) -> None:
    async def main() -> None:
        database = Database(url)
        try:
            with anyio.fail_after(DEADLINE_S):
                await test(Host(database, url, folder))
        finally:
            await database.close()

    anyio.run(main)


async def come(presence: Presence, *, is_dead: Callable[[UUID], bool] = lambda _: False) -> None:
    await register_exclusive(presence, is_dead=is_dead, stopping=lambda: False)


def test_a_row_says_what_its_worker_is_kept_for(database_url: str, tmp_path: Path) -> None:
    kept = Serves(priorities=(Priority.HIGH,), users=("ada",))

    async def test(host: Host) -> None:
        for serves in (kept, Serves()):
            id, presence = host.worker(device("a"), serves=serves)
            await presence.heartbeat()
            rows = await host.database.transaction(live_workers)
            assert {row.id: row.serves for row in rows}[id] == serves

    play(database_url, tmp_path, test)


def test_a_gpu_of_a_living_worker_is_refused(database_url: str, tmp_path: Path) -> None:
    async def test(host: Host) -> None:
        owner, first = host.worker(device("GPU-a"), device("GPU-b"))
        await come(first)
        _, second = host.worker(device("GPU-b"), device("GPU-c"))

        async def beat() -> None:
            while True:
                await first.heartbeat()
                await anyio.sleep(0.1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            with pytest.raises(NotReady, match=f"GPU-b is served by worker {owner} .*which lives"):
                await come(second)
            tasks.cancel_scope.cancel()
        assert host.rows() == {owner}

    play(database_url, tmp_path, test)


def test_the_row_of_a_worker_that_died_is_waited_out_and_no_longer(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(host: Host) -> None:
        dead, first = host.worker(device("GPU-a"))
        await come(first)
        heir, second = host.worker(device("GPU-a"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come, second)
            while "waiting up to 30 s" not in caplog.text:
                await anyio.sleep(0.02)
            assert host.rows() == {dead}
            host.age(dead, 31)
        assert host.rows() == {dead, heir}

    play(database_url, tmp_path, test)


def test_the_row_of_a_worker_that_died_before_the_clock_was_set_back_is_waited_out(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "LIVE_S", 1.0)

    async def test(host: Host) -> None:
        dead, first = host.worker(device("GPU-a"))
        await come(first)
        host.age(dead, -3600)
        heir, second = host.worker(device("GPU-a"))
        await come(second)
        assert host.rows() == {heir}

    play(database_url, tmp_path, test)


def test_a_worker_whose_lock_is_seen_to_be_free_is_not_waited_for(
    database_url: str, tmp_path: Path
) -> None:
    async def test(host: Host) -> None:
        dead, first = host.worker(device("GPU-a"))
        await come(first)
        lock = FileLock(worker_lock(tmp_path, dead))
        assert not remove_dead_lock(tmp_path, dead)
        assert not remove_dead_lock(tmp_path, uuid4())  # of which nothing is known
        lock.release()
        heir, second = host.worker(device("GPU-a"))
        with anyio.fail_after(20):
            await come(second, is_dead=lambda worker: remove_dead_lock(tmp_path, worker))
        assert host.rows() == {heir}

    play(database_url, tmp_path, test)


def test_of_two_that_start_together_one_enters(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "REGISTER_S", 1.0)

    async def test(host: Host) -> None:
        both = [host.worker(device("GPU-a"))[1] for _ in range(2)]
        refused = []

        async def try_it(presence: Presence) -> None:
            try:
                await come(presence)
            except NotReady as error:
                refused.append(str(error))

        async with anyio.create_task_group() as tasks:
            for presence in both:
                tasks.start_soon(try_it, presence)
        assert len(host.rows()) == len(refused) == 1

    play(database_url, tmp_path, test)


def test_a_cpu_and_a_gpu_without_a_name_are_nobodys_alone(
    database_url: str, tmp_path: Path
) -> None:
    async def test(host: Host) -> None:
        for _ in range(2):
            _, presence = host.worker(device("cpu-0", "cpu"), device("gpu-0"))
            with anyio.fail_after(20):
                await come(presence)
            await presence.heartbeat()
        assert len(host.rows()) == 2

    play(database_url, tmp_path, test)


def test_a_worker_that_was_taken_for_dead_says_that_its_gpu_has_two_owners(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(host: Host) -> None:
        stopped, first = host.worker(device("GPU-a"))
        await come(first)
        host.age(stopped, 31)
        heir, second = host.worker(device("GPU-a"))
        await come(second)
        assert "neither can prove" not in caplog.text
        await first.heartbeat()
        assert f"GPU-a is served by worker {heir}" in caplog.text
        assert "neither can prove" in caplog.text

    play(database_url, tmp_path, test)


# The row ------------------------------------------------------------------------------------------


def test_the_row_follows_a_slot_that_changed_before_the_next_heartbeat(
    database_url: str, tmp_path: Path
) -> None:
    async def test(host: Host) -> None:
        slots, job = SlotTable([device("cpu-0", "cpu")]), uuid4()
        (slot,) = slots
        models = LocalModels(host.database, tmp_path)
        presence = Presence(uuid4(), host.database, slots, models, warm=tuple, serves=Serves())

        async def shown() -> tuple[str, UUID | None, object]:
            await presence.refresh(every_s=3600)
            (row,) = await host.database.transaction(live_workers)
            return row.slots[0].state, row.slots[0].job_id, row.heartbeat_at

        *first, written = await shown()
        assert first == ["verifying", None]
        assert await shown() == ("verifying", None, written)
        slot.move(SlotState.FREE)
        slot.move(SlotState.HELD)
        slot.job_id = job
        assert (await shown())[:2] == ("held", job)
        slot.move(SlotState.FREE)
        assert (await shown())[:2] == ("free", None)
        *_, before = await shown()
        await presence.refresh(every_s=0)
        assert (await shown())[2] != before

    play(database_url, tmp_path, test)


# Processes ----------------------------------------------------------------------------------------


@pytest.fixture
def start(stack_environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    settings = stack_environment | {"DF_DRAIN_S": "0", "DF_MODELS_DIR": str(tmp_path / "models")}
    folder = tmp_path / "worker"
    with workers(folder, settings, module="tests.support.gpu_worker") as starter:
        yield starter


@pytest.mark.timeout(300)
def test_a_second_worker_in_another_container_does_not_start(
    start: Callable[..., Worker], tmp_path: Path
) -> None:
    first = start()
    first.wait_ready()
    second = start(DF_LOCK_DIR=str(tmp_path / "worker" / "locks" / "of another container"))
    assert second.process.wait(DEADLINE_S) == 1
    line = second.log.read_text().splitlines()[-1]
    assert line.startswith("dreamforge worker: GPU GPU-a is served by worker ")
    assert "DF_LOCK_DIR" in line
    assert first.ready()


@pytest.mark.timeout(300)
def test_a_worker_that_replaces_a_killed_one_does_not_wait_for_its_row_to_age(
    start: Callable[..., Worker],
) -> None:
    first = start()
    first.wait_ready()
    first.process.kill()
    first.process.wait()
    second = start()
    second.wait_ready()
    until(lambda: "which is dead" in second.log.read_text(), "it says so")
    assert second.stop() == 0
