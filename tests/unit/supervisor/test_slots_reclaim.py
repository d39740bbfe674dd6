"""The proof that a device's memory is back: what counts as clean, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import anyio
import pytest
from tests.support.probes import FOREIGN_PID, FakeProbe, LeakyProbe, SlowProbe

from supervisor.devices.device import Device, DeviceLost, Reading
from supervisor.processes.tree import ProcessTree
from supervisor.slots import reclaim as verify_module
from supervisor.slots.reclaim import (
    ReclaimReading,
    foreign_growth,
    leaked,
    unattributed_bytes,
    verify,
)
from supervisor.slots.table import Slot

MIB = 1 << 20
GPU = Device(
    id="GPU-a", kind="cuda", index=0, name="GPU", total_bytes=8 << 30, epsilon_bytes=64 * MIB
)
BLIND = replace(GPU, pid_namespace_shared=False)  # lists the process ids of another namespace
OURS = frozenset({10, 11})


def reading(used: int, **holders: int) -> Reading:
    pids = {int(name.removeprefix("p")): held * MIB for name, held in holders.items()}
    return Reading(
        total_bytes=GPU.total_bytes,
        used_bytes=used * MIB,
        free_bytes=GPU.total_bytes - used * MIB,
        holders=pids,
    )


@pytest.mark.parametrize(
    ("before", "now", "leak_mib"),
    [
        (reading(100), reading(100), -64),
        (reading(100), reading(164), 0),  # what is within epsilon is clean
        (reading(100), reading(165), 1),
        (reading(100), reading(20), -144),  # another process freed it
        (reading(100, p7=100), reading(900, p7=900), -64),  # a stranger's growth
        (reading(100, p7=100), reading(900, p7=800), 36),  # and ours beside it
        (reading(900, p7=900), reading(400, p7=100), 236),  # a stranger's end hides nothing
        (reading(950, p7=900), reading(150, p7=100), -64),  # nor is it a leak
    ],
)
def test_a_leak_is_growth_beyond_epsilon_that_is_not_a_strangers(
    before: Reading, now: Reading, leak_mib: int
) -> None:
    assert leaked(GPU, unattributed_bytes(GPU, before), now, OURS) == leak_mib * MIB


def test_a_process_of_ours_that_is_still_listed_is_a_leak_whatever_it_holds() -> None:
    assert leaked(GPU, 100 * MIB, reading(100, p11=30), OURS) == 30 * MIB
    assert leaked(GPU, 100 * MIB, reading(100, p11=0), OURS) == 1


def test_without_a_map_of_process_ids_only_the_total_counts() -> None:
    before, now = reading(100, p7=100), reading(900, p7=900, p10=5)
    assert foreign_growth(BLIND, before, now, OURS) == 0
    assert leaked(BLIND, unattributed_bytes(BLIND, before), now, OURS) == (800 - 64) * MIB


# Over time ----------------------------------------------------------------------------------------


class Tree:
    """A tree that is alive as long as a test wants it."""

    def __init__(self, alive: int = 0) -> None:
        self.alive = alive  # so many looks at it

    def scan(self) -> list[int]:
        self.alive -= 1
        return [10] if self.alive >= 0 else []

    def is_gone(self) -> bool:
        return not self.scan()

    def pids(self) -> frozenset[int]:
        return OURS

    def rss_bytes(self) -> int:
        return 0


async def prove(probe: FakeProbe, tree: Tree, within_s: float = 20.0) -> list[ReclaimReading]:
    """Verify; return every look. An empty tail after the deadline is up to the caller to judge."""
    looks: list[ReclaimReading] = []
    (device,) = await probe.devices()
    slot = Slot(device)
    slot.baseline.update_idle(unattributed_bytes(device, await probe.read(device, None)))
    with anyio.move_on_after(within_s):
        await verify(probe, slot, cast(ProcessTree, tree), looks.append)
        looks.append(looks[-1])  # marks that it came to an end
    return looks


def proven(looks: list[ReclaimReading]) -> bool:
    return len(looks) > 1 and looks[-1] is looks[-2]


def test_two_clean_looks_in_a_row_are_the_proof() -> None:
    looks = anyio.run(prove, FakeProbe(), Tree())
    assert proven(looks)
    assert len(looks) == 3
    assert looks[-1].leaked_bytes == looks[-1].now.used_bytes == 0


def test_readings_are_as_far_apart_as_the_device_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = []

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)

    async def test() -> None:
        slot = Slot(replace((await FakeProbe().devices())[0], settle_s=0.25))
        slot.baseline.update_idle(0)
        await verify(FakeProbe(), slot, cast(ProcessTree, Tree(alive=2)), lambda _reading: None)

    monkeypatch.setattr(anyio, "sleep", sleep)
    anyio.run(test)
    assert pauses == [0.25, 0.5, 0.25]  # it lived twice, and was then gone twice


def test_memory_that_comes_back_late_is_proven_late() -> None:
    looks = anyio.run(prove, SlowProbe(readings=2), Tree())
    assert proven(looks)
    assert [look.leaked_bytes for look in looks[:-1]] == [MIB, MIB, 0, 0]
    assert looks[-1].seconds > looks[0].seconds


def test_memory_that_stays_is_never_proven_back() -> None:
    looks = anyio.run(prove, LeakyProbe(leak_bytes=5), Tree(), 0.5)
    assert looks
    assert not proven(looks)
    assert {look.leaked_bytes for look in looks} == {5}


def test_a_living_process_is_not_reclaimed_however_little_it_holds() -> None:
    looks = anyio.run(prove, FakeProbe(), Tree(alive=3))
    assert proven(looks)
    assert len(looks) == 3 + 2 + 1


def test_one_clean_look_between_two_dirty_ones_proves_nothing() -> None:
    class Flickers(FakeProbe):
        async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
            now = await super().read(device, tree)
            # before, then dirty, clean, dirty, clean, clean
            dirty = self.reads in (2, 4)
            return replace(now, used_bytes=MIB) if dirty else now

    looks = anyio.run(prove, Flickers(), Tree())
    assert [look.leaked_bytes for look in looks[:-1]] == [MIB, 0, MIB, 0, 0]


def test_a_device_that_is_lost_meanwhile_is_not_waited_for() -> None:
    class Goes(FakeProbe):
        async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
            if tree is not None:
                self.lost.add(device.id)
            return await super().read(device, tree)

    with pytest.raises(DeviceLost):
        anyio.run(prove, Goes(), Tree())


def test_a_neighbours_process_on_the_device_is_no_strangers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnBoth(FakeProbe):
        async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
            if tree is not None:
                self.foreign[device.id] = 7 * MIB
            return await super().read(device, tree)

    monkeypatch.setattr(verify_module, "all_pids", lambda: frozenset({FOREIGN_PID}))
    looks = anyio.run(prove, OnBoth(), Tree(), 0.5)
    assert not proven(looks)
    assert {look.leaked_bytes for look in looks} == {7 * MIB}


def test_what_a_stranger_takes_meanwhile_is_not_counted() -> None:
    class Grows(FakeProbe):
        async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
            if tree is not None:
                self.foreign[device.id] = 7 * MIB
            return await super().read(device, tree)

    looks = anyio.run(prove, Grows(), Tree())
    assert proven(looks)
    assert looks[-1].now.holders == {FOREIGN_PID: 7 * MIB}
