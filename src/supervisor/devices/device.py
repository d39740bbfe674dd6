"""What the supervisor knows of a device, and the one protocol to ask it.

A *reading* is what the device itself says now. On a GPU that is NVML; on the CPU "device memory" is
the resident memory of the runner's process tree, so that the whole protocol, the verification
included, runs for real on a machine without a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from supervisor.processes.tree import ProcessTree

# A GPU that does not tell its UUID is called so, with its index. Other hosts have one of that name.
UNNAMED_GPU = "gpu-"


class DeviceLost(Exception):
    """The device cannot be used any more: off the bus, needs a reset, or its driver hangs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One device of this host. `epsilon_bytes` is what may differ before and after a step."""

    id: str  # UUID of a GPU; `cpu-<n>`
    kind: str  # cpu or cuda
    index: int
    name: str
    total_bytes: int
    epsilon_bytes: int
    reserved_bytes: int = 0  # of the total, what the driver keeps for itself whatever runs
    lost: str = ""  # why it could not even be described at start; its size is not known then
    # Whether the process ids that the device lists are ours. In a container they are often the
    # host's; then only the device's total can be compared, and the device must be ours alone.
    pid_namespace_shared: bool = True
    pid_check_result: str = ""  # how the start-up probe came to that, in words
    environment: dict[str, str] = field(default_factory=dict)  # how a runner gets just this device

    @property
    def capacity_bytes(self) -> int:
        """What a step could have of it at best."""
        return self.total_bytes - self.reserved_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Device memory at one moment, bytes. `holders` maps process ids to what they hold."""

    total_bytes: int
    used_bytes: int
    free_bytes: int
    reserved_bytes: int = 0  # kept by the driver for itself; in neither of the other two
    holders: dict[int, int] = field(default_factory=dict)


class DeviceProbe(Protocol):
    """Asks devices. Every call is bounded in time and raises `DeviceLost` when that is exceeded."""

    async def devices(self) -> list[Device]:
        """Every device of this host. One that does not answer is listed as `lost`."""

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        """Memory now; `tree` is the runner that occupies the device, if one does."""

    async def close(self) -> None:
        """Give everything back."""
