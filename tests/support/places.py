"""Devices for hostile runners: the CPU, and a GPU on which each runner holds a context.

A test file reads its own `PLACE`; `tests/gpu/test_gpu_hostile.py` runs the same tests elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.support import cuda_runners, runners
from tests.support.harness import PRESET

from supervisor.devices.device import Device, DeviceProbe, Reading
from supervisor.devices.gpu import EPSILON_BYTES, GpuProbe
from supervisor.processes.child import Entry
from supervisor.processes.tree import ProcessTree

CUDA_PRESET = PRESET | {"name": "gpu-test", "device": "cuda"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """`entry` does what the step's prompt says after GO, `options` are for `serving`."""

    entry: Entry
    options: dict[str, Any] = field(default_factory=dict)
    probe: Callable[[], DeviceProbe] | None = None  # None: one that the options describe
    epsilon_bytes: int = 0
    shared: bool = False  # others may have memory on it, so `before` need not be 0
    begin_s: float = 0.0  # from GO to the first action of a runner


class OneGpu(GpuProbe):
    """The first GPU only; `extra_bytes` makes it look fuller than it is."""

    extra_bytes = 0

    async def devices(self) -> list[Device]:
        return (await super().devices())[:1]

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        now = await super().read(device, tree)
        return Reading(
            total_bytes=now.total_bytes,
            used_bytes=now.used_bytes + self.extra_bytes,
            free_bytes=now.free_bytes,
            reserved_bytes=now.reserved_bytes,
            holders=now.holders,
        )


CPU = Place(entry=runners.main)
GPU = Place(
    entry=cuda_runners.with_context,
    options={"preset": CUDA_PRESET, "device": "cuda", "reclaim_deadline_s": 30.0},
    probe=lambda: OneGpu(f"test:{uuid4()}"),
    epsilon_bytes=EPSILON_BYTES,
    shared=True,
    begin_s=5.0,
)
