"""What a worker's row shows of its slots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.model_rows import model_row
from tests.support.silent_disk import DEADLINE_S, answered_at_last

from shared.db import models as registry_rows
from shared.db import workers
from shared.models.stamp import Stamp
from shared.users import Serves
from supervisor.devices.device import Device, Reading
from supervisor.membership import local_models
from supervisor.membership.heartbeat import Presence, slot_row
from supervisor.slots.table import Slot, SlotTable

GPU = Device(
    id="GPU-a", kind="cuda", index=0, name="H", total_bytes=10, epsilon_bytes=0
)  # fmt: skip


def slot(seen: Reading | None) -> Slot:
    async def make() -> Slot:
        return Slot(GPU, last_reading=seen)

    return anyio.run(make)


def test_a_device_that_was_not_asked_yet_is_not_said_to_be_full() -> None:
    row = slot_row(slot(None))
    assert (row.capacity_bytes, row.free_bytes, row.holders) == (10, None, {})


def test_a_device_that_was_asked_tells_what_is_free_and_who_holds_the_rest() -> None:
    row = slot_row(slot(Reading(total_bytes=10, used_bytes=7, free_bytes=3, holders={77: 7})))
    assert (row.free_bytes, row.holders) == (3, {"77": 7})


class Database:
    """A registry of models; keeps what a worker writes of itself."""

    def __init__(self) -> None:
        self.models = [model_row(name="first")]
        self.written: list[set[UUID]] = []  # the models of each row

    async def transaction(self, work: object, *row: Any, **_: object) -> Any:
        await anyio.lowlevel.checkpoint()
        if work is registry_rows.list_models:
            return self.models
        if work is workers.upsert:
            self.written.append(set(row[0].models))
        return []


def test_a_heart_beats_although_the_disk_of_a_model_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After 30 s without one the worker would count as gone, and another take its GPU."""
    os.mkfifo(away := tmp_path / "away")
    looks: list[Path] = []

    def stamp_of(folder: Path) -> Stamp:
        if folder.name.startswith("silent"):
            looks.append(folder)
            away.read_text()
        return ()

    monkeypatch.setattr(local_models, "stamp_of", stamp_of)
    monkeypatch.setattr(local_models, "STAMP_WITHIN_S", 10 * DEADLINE_S)
    monkeypatch.setattr(local_models, "check_row", lambda folder, row: None)

    async def main() -> None:
        database: Any = Database()
        models = local_models.LocalModels(database, tmp_path)
        slots = SlotTable([GPU])
        presence = Presence(uuid4(), database, slots, models, warm=tuple, serves=Serves())
        first, second, silent = (
            database.models[0],
            model_row(name="second"),
            model_row(name="silent"),
        )
        with anyio.fail_after(DEADLINE_S):
            await presence.refresh(every_s=3600)
            assert database.written == [{first.id}]
            database.models = [first, second, silent]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(models.refresh)
                while not looks:
                    await anyio.sleep(0.01)
                await presence.refresh(every_s=3600)  # a model more
                await presence.heartbeat()
                assert database.written[1:] == [{first.id, second.id}] * 2
                tasks.cancel_scope.cancel()

    with answered_at_last(away):
        anyio.run(main)
