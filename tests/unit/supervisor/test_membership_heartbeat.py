"""What a worker's row shows of its slots."""

from __future__ import annotations

import anyio

from supervisor.devices.device import Device, Reading
from supervisor.membership.heartbeat import slot_row
from supervisor.slots.table import Slot

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
