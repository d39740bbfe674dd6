"""Devices that behave as badly as real ones do, behind the same protocol as the real probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import anyio

from supervisor.devices.cpu import CpuProbe
from supervisor.devices.device import Device, DeviceLost, Reading
from supervisor.processes.tree import ProcessTree

FOREIGN_PID = 1  # init: alive, and never ours


class FakeProbe:
    """The CPU's probe with a hand on its scale. Bytes by device id, all 0 at first.

    `held` is in use by no listed process; `foreign` is listed as another process's; a device in
    `lost` does not answer.
    """

    def __init__(self, slots: int = 1) -> None:
        self._cpu = CpuProbe(slots)
        self.held: dict[str, int] = {}
        self.foreign: dict[str, int] = {}
        self.lost: set[str] = set()
        self.reserved_bytes = 0
        self.reads = 0

    async def devices(self) -> list[Device]:
        return await self._cpu.devices()

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        self.reads += 1
        if device.id in self.lost:
            raise DeviceLost(f"{device.id} is lost")
        now = await self._cpu.read(device, tree)
        foreign = self.foreign.get(device.id, 0)
        used = now.used_bytes + self.held.get(device.id, 0) + foreign
        return Reading(
            total_bytes=device.total_bytes,
            used_bytes=used,
            free_bytes=max(0, device.total_bytes - used),
            reserved_bytes=self.reserved_bytes,
            holders={FOREIGN_PID: foreign} if foreign else {},
        )

    async def close(self) -> None:
        await self._cpu.close()


class HostProbe(FakeProbe):
    """A host with so much memory in all, of which `taken_bytes` are in use by other processes."""

    def __init__(self, total_bytes: int, slots: int = 1) -> None:
        super().__init__(slots)
        self._total_bytes = total_bytes
        self.taken_bytes: Callable[[], int] = lambda: 0

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        now = await super().read(device, tree)
        free = self._total_bytes - now.used_bytes - self.taken_bytes()
        return replace(now, free_bytes=max(0, free), host_free_bytes=max(0, free))


class LeakyProbe(FakeProbe):
    """What a runner leaves behind when it is gone stays until `release`."""

    def __init__(self, slots: int = 1, leak_bytes: int = 1 << 20) -> None:
        super().__init__(slots)
        self._leak_bytes = leak_bytes

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        if tree is not None and self._leak_bytes and not tree.scan():
            self.held[device.id] = self._leak_bytes
        return await super().read(device, tree)

    def release(self) -> None:
        self._leak_bytes = 0
        self.held.clear()


class SlowProbe(LeakyProbe):
    """A driver that gives a dead process's memory back some readings later."""

    def __init__(self, slots: int = 1, readings: int = 3) -> None:
        super().__init__(slots)
        self._readings = readings

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        now = await super().read(device, tree)
        if self.held:
            self._readings -= 1
            if self._readings == 0:
                self.release()
        return now


class BlindProbe(FakeProbe):
    """A host that is short of something: where `/proc` cannot be read there is nothing to say."""

    def __init__(self, slots: int = 1) -> None:
        super().__init__(slots)
        self.blind = False
        self.refused = 0

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        if self.blind:
            self.refused += 1
            raise OSError("no more descriptors")
        return await super().read(device, tree)


class HangingProbe(FakeProbe):
    """A device in `hanging` never answers, so its reading takes the whole of its bound."""

    def __init__(self, slots: int = 1, bound_s: float = 0.2) -> None:
        super().__init__(slots)
        self.hanging: set[str] = set()
        self._bound_s = bound_s

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        if device.id in self.hanging:
            with anyio.move_on_after(self._bound_s, shield=True):
                await anyio.sleep_forever()
            raise DeviceLost(f"{device.id} did not answer within {self._bound_s:g} s")
        return await super().read(device, tree)


class LostProbe(FakeProbe):
    """Lists its devices, and none of them answers."""

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        raise DeviceLost(f"{device.id} is lost")


class AbsentProbe(FakeProbe):
    """There is nothing to ask: no driver, or not the one that belongs to the library."""

    async def devices(self) -> list[Device]:
        raise DeviceLost("no driver")
