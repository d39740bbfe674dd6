"""The CPU as a device: memory is the resident memory of the runner's process tree."""

import platform

from supervisor.devices import cgroup
from supervisor.devices.device import Device, Reading
from supervisor.processes.tree import ProcessTree


class CpuProbe:
    """`DeviceProbe` over `/proc`. Used memory is 0 without a tree, and must be 0 again after it."""

    def __init__(self, slots: int, total_bytes: int | None = None) -> None:
        """`total_bytes` are for all slots together; None: all that this process may use."""
        self._slots = slots
        self._total_bytes = total_bytes

    async def devices(self) -> list[Device]:
        total = cgroup.total_bytes() if self._total_bytes is None else self._total_bytes
        return [
            Device(
                id=f"cpu-{index}",
                kind="cpu",
                index=index,
                name=platform.processor() or platform.machine(),
                total_bytes=total // self._slots,
                epsilon_bytes=0,
                # The kernel takes a process's memory before it reports its end. What the second
                # reading looks for is a process that the first one did not see.
                settle_s=0.001,
                environment={"CUDA_VISIBLE_DEVICES": ""},
            )
            for index in range(self._slots)
        ]

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        used = 0 if tree is None else tree.rss_bytes()
        host_free = cgroup.free_bytes()
        return Reading(
            total_bytes=device.total_bytes,
            used_bytes=used,
            free_bytes=min(host_free, max(0, device.total_bytes - used)),
            host_free_bytes=host_free,
        )

    async def close(self) -> None:
        pass
