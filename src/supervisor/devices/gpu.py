"""GPUs through NVML, which helper processes call, and never without a deadline.

When a GPU is first listed, a helper process holds a CUDA context on it, and the probe checks
whether NVML lists that process by the pid that the worker knows. Only then are process ids
compared. Otherwise the GPU's total is compared, and the GPU must be this worker's alone.
"""

import ctypes
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from shared.linux.sandbox import NO_SANDBOX
from shared.protocol.frames import FrameError
from supervisor.devices import context_holder, nvml_server
from supervisor.devices.device import UNNAMED_GPU, Device, DeviceLost, Reading
from supervisor.devices.nvml_client import END_S, NvmlClient
from supervisor.processes.child import Entry
from supervisor.processes.spawned import SpawnedProcess
from supervisor.processes.tree import ProcessTree

log = logging.getLogger(__name__)

_DRIVER = Path("/proc/driver/nvidia/version")  # there where the driver is loaded, but not on WSL 2
_NVML_LIBRARY = "libnvidia-ml.so.1"
# OR-001: what may differ between two readings of an idle device.
EPSILON_BYTES = 64 * 1024 * 1024
# A first context takes a few seconds on a machine with many GPUs and no persistence daemon.
CONTEXT_HOLDER_S = 30.0
# NVML lists a context as soon as it exists; a moment more costs nothing.
LISTED_S = 2.0
_POLL_S = 0.1
_MPS = (
    "is served through MPS; stop nvidia-cuda-mps-control, memory of one process cannot be verified "
    "under it"
)


def may_have_gpus() -> bool:
    """Whether it is worth asking NVML: its driver or its library is on this host.

    To load the library calls nothing of it. What NVML answers decides (`survey`).
    """
    if _DRIVER.exists():
        return True
    try:
        ctypes.CDLL(_NVML_LIBRARY)
    except OSError:
        return False
    return True


class MpsRefused(DeviceLost):
    """Under MPS all clients share one context: the memory of two processes cannot be told apart."""


class GpuProbe:
    """`DeviceProbe` with one helper for each GPU; the instances of a split GPU share theirs."""

    def __init__(
        self,
        worker_mark: str,
        *,
        entry: Entry = nvml_server.main,
        context_holder_entry: Entry = context_holder.main,
        environment: Mapping[str, str] = NO_SANDBOX,
    ) -> None:
        """`environment` says how helpers are contained."""
        self._environment = environment
        self._worker_mark = worker_mark
        self._entry = entry
        self._context_holder_entry = context_holder_entry
        self._pid_checks: dict[str, tuple[bool, str]] = {}  # by UUID: are pids ours, and why so
        self._gpus: dict[str, int] = {}  # by UUID: on which GPU, by NVML's index
        self.clients: dict[int | None, NvmlClient] = {}  # by GPU; None counts the GPUs

    async def count(self) -> int:
        """How many GPUs NVML lists."""
        # A client of its own, that remembers a stuck helper: the question concerns no single GPU.
        answer = await self._client(None).call({"method": "count"}, last=True)
        return int(answer["count"])

    async def devices(self) -> list[Device]:
        descriptions = []
        for description in await self.describe():
            if why := description.get("unmeasured"):
                gpu = self._gpus[description["uuid"]]
                log.warning("GPU %d (%s) is not served: %s", gpu, description["name"], why)
            else:
                descriptions.append(description)
        for description in descriptions:
            _refuse_mps(description)
        return [await self._device(index, each) for index, each in enumerate(descriptions)]

    async def describe(self) -> list[dict[str, Any]]:
        """What NVML says of each device, as `nvml_server` answers it."""
        count = await self.count()
        by_gpu: list[list[dict[str, Any]]] = [[] for _ in range(count)]

        async def describe_one(gpu: int) -> None:
            by_gpu[gpu] = await self._describe(gpu)

        async with anyio.create_task_group() as tasks:
            for gpu in range(count):
                tasks.start_soon(describe_one, gpu)
        return [description for devices in by_gpu for description in devices]

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        if device.lost:
            raise DeviceLost(device.lost)
        answer = await self._read(device)
        return Reading(
            total_bytes=answer["total_bytes"],
            used_bytes=answer["used_bytes"],
            free_bytes=answer["free_bytes"],
            reserved_bytes=answer["reserved_bytes"],
            holders={int(pid): held_bytes for pid, held_bytes in answer["holders"].items()},
        )

    async def close(self) -> None:
        async with anyio.create_task_group() as tasks:
            for client in self.clients.values():
                tasks.start_soon(client.close)

    # One GPU --------------------------------------------------------------------------------------

    def _client(self, gpu: int | None) -> NvmlClient:
        if gpu not in self.clients:
            self.clients[gpu] = NvmlClient(
                self._entry, f"{self._worker_mark}:nvml", self._environment
            )
        return self.clients[gpu]

    async def _read(self, device: Device) -> dict[str, Any]:
        gpu = self._gpus.get(device.id)
        return await self._client(gpu).call({"method": "read", "gpu": gpu, "uuid": device.id})

    async def _describe(self, gpu: int) -> list[dict[str, Any]]:
        """The devices of a GPU: itself, its instances, or one entry that says it is lost."""
        try:
            answer = await self._client(gpu).call({"method": "describe", "gpu": gpu})
        except DeviceLost as error:
            return [{"uuid": f"{UNNAMED_GPU}{gpu}", "lost": str(error)}]
        devices: list[dict[str, Any]] = answer["devices"]
        if not devices:
            log.warning(
                "GPU %d is not served: MIG is enabled, and there is no instance to serve", gpu
            )
        for description in devices:
            description["uuid"] = description["uuid"] or f"{UNNAMED_GPU}{gpu}"
            self._gpus[description["uuid"]] = gpu
        return devices

    async def _device(self, index: int, description: dict[str, Any]) -> Device:
        device = Device(
            id=description["uuid"],
            kind="cuda",
            index=index,
            name=description.get("name", "unknown"),
            total_bytes=description.get("total_bytes", 0),
            reserved_bytes=description.get("reserved_bytes", 0),
            epsilon_bytes=EPSILON_BYTES,
            lost=description.get("lost", ""),
            # NVML and CUDA count differently; the UUID names the same card for both.
            environment={"CUDA_VISIBLE_DEVICES": description["uuid"]},
        )
        if device.lost:
            return device
        shared, result = await self._pid_check(device)
        return replace(device, pid_namespace_shared=shared, pid_check_result=result)

    # Process ids ----------------------------------------------------------------------------------

    async def _pid_check(self, device: Device) -> tuple[bool, str]:
        """Whether NVML's process ids are ours, and why; checked once for each device."""
        if device.id not in self._pid_checks:
            shared, result = self._pid_checks[device.id] = await self._check_process_ids(device)
            if shared:
                log.info("GPU %s: %s", device.id, result)
            else:
                log.warning(
                    "GPU %s: %s; its total is compared, so it must be ours alone", device.id, result
                )
        return self._pid_checks[device.id]

    async def _check_process_ids(self, device: Device) -> tuple[bool, str]:
        holder = SpawnedProcess(
            self._context_holder_entry,
            marker=f"{self._worker_mark}:context_holder",
            environment={**device.environment, **self._environment},
        )
        try:
            with anyio.fail_after(CONTEXT_HOLDER_S):
                frame = await holder.channel.receive()
            if frame is None or "error" in frame.header:
                why = "it ended" if frame is None else frame.header["error"]
                return False, f"no context could be held to try NVML's process ids ({why})"
            return await self._is_listed(device, holder.pid)
        except TimeoutError:
            return False, f"no context could be held within {CONTEXT_HOLDER_S:g} s"
        except MpsRefused:
            raise
        except (OSError, FrameError, DeviceLost) as error:
            return False, f"NVML's process ids could not be tried ({error})"
        finally:
            await holder.kill_and_close(END_S)

    async def _is_listed(self, device: Device, pid: int) -> tuple[bool, str]:
        """Poll until NVML lists the process that holds a context, or the time is over.

        An MPS daemon without a client shows only now: the context holder became its first client.
        """
        listed = 0
        with anyio.move_on_after(LISTED_S):
            while True:
                answer = await self._read(device)
                _refuse_mps(answer | {"uuid": device.id})
                if str(pid) in answer["holders"]:
                    return True, "NVML's process ids are ours"
                listed = len(answer["holders"])
                await anyio.sleep(_POLL_S)
        return False, f"NVML lists {listed} processes and not ours, which holds a context"


async def survey(probe: GpuProbe | None = None) -> list[tuple[str, str]]:
    """Each device that NVML lists: its name, and why a worker does not serve it, or nothing.

    Raises `DriverAbsent`, and `DeviceLost` for other reasons why there is no answer at all.
    """
    probe = probe or GpuProbe("doctor")
    try:
        return [
            (description.get("name", description["uuid"]), _why_not_served(description))
            for description in await probe.describe()
        ]
    finally:
        await probe.close()


def _refuse_mps(description: dict[str, Any]) -> None:
    if description.get("mps"):
        raise MpsRefused(f"GPU {description['uuid']} {_MPS}")


def _why_not_served(description: dict[str, Any]) -> str:
    why = description.get("lost") or description.get("unmeasured") or ""
    return _MPS if description.get("mps") else str(why)
