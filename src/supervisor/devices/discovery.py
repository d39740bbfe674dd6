"""Which devices this host serves, behind one probe."""

from __future__ import annotations

import logging
from pathlib import Path

from shared.settings import Settings
from supervisor.devices.cpu import CpuProbe
from supervisor.devices.device import Device, DeviceProbe, Reading
from supervisor.devices.gpu import GpuProbe
from supervisor.processes.tree import ProcessTree

log = logging.getLogger(__name__)

_DRIVER = Path("/proc/driver/nvidia/version")


def open_probe(settings: Settings, worker_mark: str) -> DeviceProbe:
    """`auto` serves the CPU, and the GPUs where NVIDIA's driver is loaded.

    A step's preset names the kind of device, so a CPU slot beside GPUs takes no work from them: it
    runs the small models that are meant for a CPU.
    """
    probes: dict[str, DeviceProbe] = {}
    if settings.device in ("auto", "cpu"):
        probes["cpu"] = CpuProbe(settings.cpu_slots)
    if settings.device == "cuda" or (settings.device == "auto" and _DRIVER.exists()):
        probes["cuda"] = GpuProbe(worker_mark)
    log.info("DF_DEVICE=%s: this host serves %s", settings.device, " and ".join(probes))
    return CombinedProbe(probes)


class CombinedProbe:
    """`DeviceProbe` over one probe per kind of device."""

    def __init__(self, probes: dict[str, DeviceProbe]) -> None:
        self._probes = probes

    async def devices(self) -> list[Device]:
        return [device for probe in self._probes.values() for device in await probe.devices()]

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        return await self._probes[device.kind].read(device, tree)

    async def close(self) -> None:
        for probe in self._probes.values():
            await probe.close()
