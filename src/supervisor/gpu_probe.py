"""GPUs through NVML, asked in a helper process and never waited for without a deadline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio

from supervisor import nvml
from supervisor.channel import FrameError
from supervisor.devices import Device, DeviceLost, Reading
from supervisor.runner_process import Entry, RunnerProcess
from supervisor.tree import ProcessTree

log = logging.getLogger(__name__)

# A healthy NVML answers in milliseconds; the first call of a sleeping driver takes a few seconds.
START_S = 20.0
CALL_S = 5.0
# OR-001: what may differ between two readings of an idle device.
EPSILON_BYTES = 64 * 1024 * 1024
# The inode of the host's pid namespace is a constant of the kernel (PROC_PID_INIT_INO).
_HOST_PID_NAMESPACE = "pid:[4026531836]"


class MpsRefused(Exception):
    """Under MPS all clients share one context: no process's memory can be told from another's."""


class GpuProbe:
    """`DeviceProbe` over the helper. One that hangs is killed; the next call starts another."""

    def __init__(self, worker_mark: str, *, entry: Entry = nvml.main) -> None:
        self._worker_mark = worker_mark
        self._entry = entry
        self._helper: RunnerProcess | None = None
        self._asking = anyio.Lock()
        self._pids_map = str(Path("/proc/self/ns/pid").readlink()) == _HOST_PID_NAMESPACE

    @classmethod
    def open(cls, worker_mark: str) -> GpuProbe:
        """Make a probe, and say in the log how far its answers can be trusted."""
        probe = cls(worker_mark)
        if not probe._pids_map:
            log.warning(
                "this is a pid namespace of its own: NVML lists other ids, so a GPU's total is "
                "compared and each GPU must be ours alone"
            )
        return probe

    async def devices(self) -> list[Device]:
        answer = await self._ask({"method": "devices"}, START_S)
        found = []
        for index, gpu in enumerate(answer["devices"]):
            if gpu["mps"]:
                raise MpsRefused(
                    f"GPU {gpu['uuid']} is served through MPS; stop nvidia-cuda-mps-control, "
                    "memory of one process cannot be verified under it"
                )
            found.append(
                Device(
                    id=gpu["uuid"],
                    kind="cuda",
                    index=index,
                    name=gpu["name"],
                    total_bytes=gpu["total_bytes"],
                    epsilon_bytes=EPSILON_BYTES,
                    pids_map=self._pids_map,
                    # NVML and CUDA count differently; the UUID names the same card for both.
                    environment={"CUDA_VISIBLE_DEVICES": gpu["uuid"]},
                )
            )
        return found

    async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
        answer = await self._ask({"method": "read", "uuid": device.id}, CALL_S)
        return Reading(
            total_bytes=answer["total_bytes"],
            used_bytes=answer["used_bytes"],
            free_bytes=answer["free_bytes"],
            reserved_bytes=answer["reserved_bytes"],
            holders={int(pid): held for pid, held in answer["holders"].items()},
        )

    async def close(self) -> None:
        await self._end_helper()

    async def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        async with self._asking:
            try:
                # Shielded: a question given up half-way would leave its answer in the socket, and
                # the next question, perhaps about another GPU, would take it for its own.
                with anyio.fail_after(seconds, shield=True):
                    answer = await self._exchange(request)
            except TimeoutError as error:
                await self._end_helper()
                raise DeviceLost(f"NVML did not answer within {seconds:g} s") from error
            except (OSError, FrameError) as error:
                await self._end_helper()
                raise DeviceLost(f"the NVML helper ended: {error}") from error
        if "error" in answer:
            raise DeviceLost(answer["message"])
        return answer

    async def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._helper is None:
            marker = f"{self._worker_mark}:nvml"
            self._helper = RunnerProcess(self._entry, marker=marker, environment={})
        await self._helper.channel.send(request)
        frame = await self._helper.channel.receive()
        if frame is None:
            raise OSError("no answer")
        return frame.header

    async def _end_helper(self) -> None:
        """Kill it. One that hangs in the driver may stay; the kernel ends it with us."""
        helper, self._helper = self._helper, None
        if helper is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CALL_S):
                helper.tree.kill()
                await helper.gone()
            helper.close()
