"""GPUs through NVML, asked in helper processes and never waited for without a deadline.

When a GPU is first listed, a witness process takes a context on it, and we look whether NVML lists
the witness by the id that we know it by. Only then may process ids be compared; whatever else comes
of it, the GPU's total counts, and the GPU must be ours alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import anyio

from shared.protocol.frames import FrameError
from supervisor.devices import context_holder, nvml_server
from supervisor.devices.device import UNNAMED_GPU, Device, DeviceLost, Reading
from supervisor.devices.nvml_client import NvmlClient, end
from supervisor.processes.child import Entry, RunnerProcess
from supervisor.processes.tree import ProcessTree

log = logging.getLogger(__name__)

# OR-001: what may differ between two readings of an idle device.
EPSILON_BYTES = 64 * 1024 * 1024
# A first context takes a few seconds on a machine with many GPUs and no persistence daemon.
CONTEXT_HOLDER_S = 30.0
# A context that exists is listed at once; a moment more costs nothing.
LISTED_S = 2.0
_LOOK_EVERY_S = 0.1


class MpsRefused(DeviceLost):
    """Under MPS all clients share one context: no process's memory can be told from another's."""


class GpuProbe:
    """`DeviceProbe` over one helper for each GPU; the instances of a split one share theirs."""

    def __init__(
        self,
        worker_mark: str,
        *,
        entry: Entry = nvml_server.main,
        context_holder_entry: Entry = context_holder.main,
    ) -> None:
        self._worker_mark = worker_mark
        self._entry = entry
        self._context_holder_entry = context_holder_entry
        self._found: dict[str, tuple[bool, str]] = {}  # by UUID: whether ids map, and why we think
        self._gpus: dict[str, int] = {}  # on which GPU, by NVML's index, a UUID is
        self._clients: dict[int | None, NvmlClient] = {}

    async def devices(self) -> list[Device]:
        # About no GPU, so by no GPU's helper; and by a client that remembers one that is stuck.
        answer = await self._client(None).call({"method": "count"}, last=True)
        described: list[list[dict[str, Any]]] = [[] for _ in range(answer["count"])]

        async def describe(gpu: int) -> None:
            described[gpu] = await self._describe(gpu)

        async with anyio.create_task_group() as tasks:
            for gpu in range(answer["count"]):
                tasks.start_soon(describe, gpu)
        told = [each for devices in described for each in devices]
        _refuse_mps(told)
        return [await self._device(index, each) for index, each in enumerate(told)]

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        if device.lost:
            raise DeviceLost(device.lost)
        answer = await self._read(device)
        return Reading(
            total_bytes=answer["total_bytes"],
            used_bytes=answer["used_bytes"],
            free_bytes=answer["free_bytes"],
            reserved_bytes=answer["reserved_bytes"],
            holders={int(pid): held for pid, held in answer["holders"].items()},
        )

    async def close(self) -> None:
        async with anyio.create_task_group() as tasks:
            for client in self._clients.values():
                tasks.start_soon(client.close)

    # One GPU --------------------------------------------------------------------------------------

    def _client(self, gpu: int | None) -> NvmlClient:
        if gpu not in self._clients:
            marker = f"{self._worker_mark}:nvml"
            self._clients[gpu] = NvmlClient(self._entry, marker)
        return self._clients[gpu]

    async def _read(self, device: Device) -> dict[str, Any]:
        gpu = self._gpus.get(device.id)
        return await self._client(gpu).call({"method": "read", "gpu": gpu, "uuid": device.id})

    async def _describe(self, gpu: int) -> list[dict[str, Any]]:
        """What is on a GPU: itself, its instances, or the one entry that it is lost."""
        try:
            answer = await self._client(gpu).call({"method": "describe", "gpu": gpu})
        except DeviceLost as error:
            return [{"uuid": f"{UNNAMED_GPU}{gpu}", "lost": str(error)}]
        if answer["note"]:
            log.warning("GPU %d is not served: %s", gpu, answer["note"])
        for each in answer["devices"]:
            each["uuid"] = each["uuid"] or f"{UNNAMED_GPU}{gpu}"
            self._gpus[each["uuid"]] = gpu
        devices: list[dict[str, Any]] = answer["devices"]
        return devices

    async def _device(self, index: int, told: dict[str, Any]) -> Device:
        lost = told.get("lost", "")
        device = Device(
            id=told["uuid"],
            kind="cuda",
            index=index,
            name=told.get("name", "unknown"),
            total_bytes=told.get("total_bytes", 0),
            reserved_bytes=told.get("reserved_bytes", 0),
            epsilon_bytes=EPSILON_BYTES,
            lost=lost,
            # NVML and CUDA count differently; the UUID names the same card for both.
            environment={"CUDA_VISIBLE_DEVICES": told["uuid"]},
        )
        return device if lost else await self._with_findings(device)

    # Process ids ----------------------------------------------------------------------------------

    async def _with_findings(self, device: Device) -> Device:
        """The device, and whether its process ids are ours: found out once, and then known."""
        if device.id not in self._found:
            pid_namespace_shared, words = self._found[device.id] = await self._check_process_ids(
                device
            )
            if pid_namespace_shared:
                log.info("GPU %s: %s", device.id, words)
            else:
                log.warning(
                    "GPU %s: %s; its total is compared, so it must be ours alone", device.id, words
                )
        pid_namespace_shared, words = self._found[device.id]
        return replace(device, pid_namespace_shared=pid_namespace_shared, pid_check_result=words)

    async def _check_process_ids(self, device: Device) -> tuple[bool, str]:
        holder = RunnerProcess(
            self._context_holder_entry,
            marker=f"{self._worker_mark}:context_holder",
            environment=device.environment,
        )
        try:
            with anyio.fail_after(CONTEXT_HOLDER_S):
                said = await holder.channel.receive()
            if said is None or "error" in said.header:
                why = "it ended" if said is None else said.header["error"]
                return False, f"no context could be held to try NVML's process ids ({why})"
            return await self._is_listed(device, holder.pid)
        except TimeoutError:
            return False, f"no context could be held within {CONTEXT_HOLDER_S:g} s"
        except MpsRefused:
            raise
        except (OSError, FrameError, DeviceLost) as error:
            return False, f"NVML's process ids could not be tried ({error})"
        finally:
            await end(holder)

    async def _is_listed(self, device: Device, pid: int) -> tuple[bool, str]:
        """Look until the process that holds a context is listed by its id, or it is too late.

        A daemon of MPS without a client shows only now: this context made the witness one.
        """
        listed = 0
        with anyio.move_on_after(LISTED_S):
            while True:
                answer = await self._read(device)
                _refuse_mps([answer | {"uuid": device.id}])
                if str(pid) in answer["holders"]:
                    return True, "NVML's process ids are ours"
                listed = len(answer["holders"])
                await anyio.sleep(_LOOK_EVERY_S)
        return False, f"NVML lists {listed} processes and not ours, which holds a context"


def _refuse_mps(told: list[dict[str, Any]]) -> None:
    for gpu in told:
        if gpu.get("mps"):
            raise MpsRefused(
                f"GPU {gpu['uuid']} is served through MPS; stop nvidia-cuda-mps-control, "
                "memory of one process cannot be verified under it"
            )
