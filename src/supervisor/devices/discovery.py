"""Which devices this host serves, behind one probe."""

import logging
from collections.abc import Mapping

import anyio

from shared.linux.sandbox import NO_SANDBOX
from shared.readiness import NotReady
from shared.settings import Settings
from supervisor.devices import cgroup
from supervisor.devices.cpu import CpuProbe
from supervisor.devices.device import Device, DeviceLost, DeviceProbe, DriverAbsent, Reading
from supervisor.devices.gpu import GpuProbe, may_have_gpus
from supervisor.devices.ownership import DeviceLocks
from supervisor.processes.tree import ProcessTree

log = logging.getLogger(__name__)


def open_probe(
    settings: Settings,
    worker_mark: str,
    locks: DeviceLocks,
    *,
    host_bytes: int | None = None,
    helpers: Mapping[str, str] = NO_SANDBOX,
) -> DeviceProbe:
    """`auto` serves the CPU, and the GPUs where NVML answers.

    `host_bytes` bound all CPU slots; `helpers` says how those of a GPU are contained.

    A step's preset names the kind of device, so a CPU slot beside GPUs takes no work from them: it
    runs the small models that are meant for a CPU.
    """
    probes: dict[str, DeviceProbe] = {}
    if settings.device in ("auto", "cpu"):
        probes["cpu"] = CpuProbe(settings.cpu_slots, host_bytes)
    if settings.device == "cuda" or (settings.device == "auto" and may_have_gpus()):
        probes["cuda"] = GpuProbe(worker_mark, environment=helpers)
    log.info("DF_DEVICE=%s: this host serves %s", settings.device, " and ".join(probes))
    if group := cgroup.kills_together():
        log.warning(
            "the kernel kills all processes of %s at once (memory.oom.group): a step that needs "
            "too much memory ends this worker and its other steps; docs/operations.md has a remedy",
            group,
        )
    return CombinedProbe(probes, locks)


async def find_devices(probe: DeviceProbe) -> list[Device]:
    """The devices of this host. Raises `NotReady` when there is none."""
    try:
        devices = await probe.devices()
    except DeviceLost as error:
        raise NotReady(f"DF_DEVICE: {error}; DF_DEVICE=cpu serves the CPU alone") from error
    if not devices:
        raise NotReady("DF_DEVICE: NVML lists no GPU to serve; set DF_DEVICE=cpu to serve the CPU")
    async with anyio.create_task_group() as tasks:
        for device in devices:
            if device.lost:
                log.error("GPU %s is lost: %s", device.id, device.lost)
            elif device.kind != "cpu":
                tasks.start_soon(_log_foreign_use, probe, device)
    return devices


async def _log_foreign_use(probe: DeviceProbe, device: Device) -> None:
    """Log the memory in use before the first step: it counts as foreign."""
    try:
        now = await probe.read(device, None)
    except DeviceLost as error:
        log.error("GPU %s is lost: %s", device.id, error)
        return
    log.info(
        "GPU %s: %d of %d bytes are in use at the start, by processes %s; they count as foreign",
        device.id,
        now.used_bytes,
        now.total_bytes,
        now.holders or "that NVML does not list",
    )


class CombinedProbe:
    """`DeviceProbe` with one probe for each kind; a GPU that two workers own counts as lost."""

    def __init__(self, probes: dict[str, DeviceProbe], locks: DeviceLocks) -> None:
        self._probes = probes
        self._locks = locks

    async def devices(self) -> list[Device]:
        found = []
        for kind, probe in self._probes.items():
            try:
                found += await probe.devices()
            except DriverAbsent as error:
                if kind == "cpu" or "cpu" not in self._probes:
                    raise
                log.info("no GPU is served: %s", error)
        return found

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        if conflict := self._locks.conflicts.get(device.id):
            raise DeviceLost(f"GPU {device.id} is owned twice: {conflict}")
        return await self._probes[device.kind].read(device, tree)

    async def close(self) -> None:
        for probe in self._probes.values():
            await probe.close()
