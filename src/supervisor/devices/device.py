"""What the supervisor knows of a device, and the protocol to read it.

A *reading* is what the device itself reports now. On a GPU that is NVML. On the CPU "device memory"
is the resident memory of the runner's process tree, so the whole protocol, the verification
included, runs for real on a machine without a GPU.
"""

from dataclasses import dataclass, field
from typing import Protocol

from supervisor.processes.tree import ProcessTree

# The id of a GPU without a readable UUID begins so. Other hosts have such ids too.
UNNAMED_GPU = "gpu-"


class DeviceLost(Exception):
    """The device cannot be used: it is off the bus, needs a reset, or its driver hangs."""


class DriverAbsent(DeviceLost):
    """There is no NVIDIA driver on this host, or not its library."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One device of this host. `epsilon_bytes` is what may differ before and after a step."""

    id: str  # UUID of a GPU; `cpu-<n>`
    kind: str  # cpu or cuda
    index: int
    name: str
    total_bytes: int
    epsilon_bytes: int
    # Seconds between two readings that must agree. A driver frees the memory of a killed process a
    # little after its end.
    settle_s: float = 0.1
    reserved_bytes: int = 0  # of the total, what the driver keeps for itself whatever runs
    lost: str = ""  # why it could not even be described at start; its size is not known then
    # Whether the device lists process ids of our namespace. In a container they are often the
    # host's; then only the device's total can be compared, and the device must be ours alone.
    pid_namespace_shared: bool = True
    pid_check_result: str = ""  # why the start-up check says so, as text
    environment: dict[str, str] = field(default_factory=dict)  # how a runner gets just this device

    @property
    def capacity_bytes(self) -> int:
        """The most that a step can use."""
        return self.total_bytes - self.reserved_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Device memory at one moment, bytes. `holders` maps process ids to what they hold."""

    total_bytes: int
    used_bytes: int
    free_bytes: int
    reserved_bytes: int = 0  # kept by the driver for itself; in neither of the other two
    # Free on the host, in whose memory each slot of the CPU has a share; None for a GPU.
    host_free_bytes: int | None = None
    holders: dict[int, int] = field(default_factory=dict)


class DeviceProbe(Protocol):
    """Reads devices. Every call is bounded in time; past that it raises `DeviceLost`."""

    async def devices(self) -> list[Device]:
        """Every device of this host. One that does not answer is listed as `lost`."""

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        """Memory now; `tree` is the runner that uses the device, if one does."""

    async def close(self) -> None:
        """End every helper process."""
