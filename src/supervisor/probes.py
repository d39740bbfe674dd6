"""Which probe serves this host."""

from __future__ import annotations

import logging
from pathlib import Path

from shared.settings import Settings
from supervisor.cpu_probe import CpuProbe
from supervisor.devices import DeviceProbe
from supervisor.gpu_probe import GpuProbe

log = logging.getLogger(__name__)

_DRIVER = Path("/proc/driver/nvidia/version")


def open_probe(settings: Settings, worker_mark: str) -> DeviceProbe:
    """The GPU probe where the driver is loaded, else the CPU one; `DF_DEVICE` decides instead."""
    device = settings.device
    if device == "auto":
        device = "cuda" if _DRIVER.exists() else "cpu"
        log.info("DF_DEVICE=auto: this host serves %s", device)
    return CpuProbe(settings.cpu_slots) if device == "cpu" else GpuProbe.open(worker_mark)
