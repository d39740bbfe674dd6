"""Slots: free only by proof, and every other move refused."""

from __future__ import annotations

import itertools
from dataclasses import replace

import anyio
import pytest

from supervisor.devices.device import Device
from supervisor.slots.table import IllegalMove, Slot, SlotState, SlotTable

V, F, H, Q, L = (
    SlotState.VERIFYING,
    SlotState.FREE,
    SlotState.HELD,
    SlotState.QUARANTINED,
    SlotState.LOST,
)
ALLOWED = {
    (V, F),
    (V, Q),
    (V, L),
    (F, H),
    (F, L),
    (H, F),
    (H, Q),
    (H, L),
    (Q, F),
    (Q, L),
    (L, F),
    (L, Q),
}
DEVICE = Device(id="cpu-0", kind="cpu", index=0, name="CPU", total_bytes=8, epsilon_bytes=0)


def slot_in(state: SlotState) -> Slot:
    return Slot(DEVICE, state=state)


def moves(source: SlotState, target: SlotState) -> SlotState:
    async def move() -> SlotState:
        slot = slot_in(source)
        slot.move(target)
        return slot.state

    return anyio.run(move)


@pytest.mark.parametrize(("source", "target"), sorted(ALLOWED))
def test_a_slot_moves_where_it_may(source: SlotState, target: SlotState) -> None:
    assert moves(source, target) is target


@pytest.mark.parametrize(
    ("source", "target"), sorted(set(itertools.product(SlotState, SlotState)) - ALLOWED)
)
def test_a_slot_refuses_every_other_move(source: SlotState, target: SlotState) -> None:
    with pytest.raises(IllegalMove, match="cpu-0"):
        moves(source, target)


def test_a_slot_begins_unproven() -> None:
    async def test() -> None:
        assert Slot(DEVICE).state is V

    anyio.run(test)


def test_one_free_slot_of_each_kind_is_offered_smallest_first() -> None:
    big = replace(DEVICE, id="GPU-a", kind="cuda", total_bytes=80)
    small = replace(DEVICE, id="GPU-b", kind="cuda", total_bytes=24)
    twin = replace(DEVICE, id="cpu-1")

    async def test() -> None:
        table = SlotTable([big, DEVICE, small, twin])
        assert list(table.free_by_kind()) == []
        for slot in table:
            slot.move(F)
        assert [slot.id for slot in table.free_by_kind()] == ["cpu-0", "GPU-b", "GPU-a"]
        next(table.free_by_kind()).move(H)
        assert [slot.id for slot in table.free_by_kind()] == ["cpu-1", "GPU-b", "GPU-a"]

    anyio.run(test)


def test_a_slot_that_is_lost_while_another_is_tried_is_not_offered() -> None:
    gpu = replace(DEVICE, id="GPU-a", kind="cuda", total_bytes=80)

    async def test() -> None:
        table = SlotTable([DEVICE, gpu])
        for slot in table:
            slot.move(F)
        offered = table.free_by_kind()
        assert next(offered).id == "cpu-0"
        (lost,) = [slot for slot in table if slot.id == "GPU-a"]
        lost.move(SlotState.LOST)
        assert list(offered) == []

    anyio.run(test)
