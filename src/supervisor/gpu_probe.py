"""GPUs through NVML, asked in a helper process and never waited for without a deadline.

When a GPU is first listed, a witness process takes a context on it, and we look whether NVML lists
the witness by the id that we know it by. Only then may process ids be compared; whatever else comes
of it, the GPU's total counts, and the GPU must be ours alone.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import anyio

from supervisor import nvml, witness
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
# A first context takes a few seconds on a machine with many GPUs and no persistence daemon.
WITNESS_S = 30.0
# A context that exists is listed at once; a moment more costs nothing.
LISTED_S = 2.0
_LOOK_EVERY_S = 0.1


class MpsRefused(Exception):
    """Under MPS all clients share one context: no process's memory can be told from another's."""


class GpuProbe:
    """`DeviceProbe` over the helper. One that hangs is killed; the next call starts another."""

    def __init__(
        self, worker_mark: str, *, entry: Entry = nvml.main, witness_entry: Entry = witness.main
    ) -> None:
        self._worker_mark = worker_mark
        self._entry = entry
        self._witness_entry = witness_entry
        self._found: dict[str, tuple[bool, str]] = {}  # by UUID: whether ids map, and why we think
        self._helper: RunnerProcess | None = None
        self._asking = anyio.Lock()

    async def devices(self) -> list[Device]:
        answer = await self._ask({"method": "devices"}, START_S)
        for gpu in answer["devices"]:
            if gpu["mps"]:
                raise MpsRefused(
                    f"GPU {gpu['uuid']} is served through MPS; stop nvidia-cuda-mps-control, "
                    "memory of one process cannot be verified under it"
                )
        return [
            await self._with_findings(
                Device(
                    id=gpu["uuid"],
                    kind="cuda",
                    index=index,
                    name=gpu["name"],
                    total_bytes=gpu["total_bytes"],
                    epsilon_bytes=EPSILON_BYTES,
                    # NVML and CUDA count differently; the UUID names the same card for both.
                    environment={"CUDA_VISIBLE_DEVICES": gpu["uuid"]},
                )
            )
            for index, gpu in enumerate(answer["devices"])
        ]

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

    async def _with_findings(self, device: Device) -> Device:
        """The device, and whether its process ids are ours: found out once, and then known."""
        if device.id not in self._found:
            pids_map, words = self._found[device.id] = await self._look_for_witness(device)
            if pids_map:
                log.info("GPU %s: %s", device.id, words)
            else:
                log.warning(
                    "GPU %s: %s; its total is compared, so it must be ours alone", device.id, words
                )
        pids_map, words = self._found[device.id]
        return replace(device, pids_map=pids_map, pids_found=words)

    async def _look_for_witness(self, device: Device) -> tuple[bool, str]:
        holder = RunnerProcess(
            self._witness_entry,
            marker=f"{self._worker_mark}:witness",
            environment=device.environment,
        )
        try:
            with anyio.fail_after(WITNESS_S):
                said = await holder.channel.receive()
            if said is None or "error" in said.header:
                why = "it ended" if said is None else said.header["error"]
                return False, f"no context could be held to try NVML's process ids ({why})"
            return await self._is_listed(device, holder.pid)
        except TimeoutError:
            return False, f"no context could be held within {WITNESS_S:g} s"
        except (OSError, FrameError, DeviceLost) as error:
            return False, f"NVML's process ids could not be tried ({error})"
        finally:
            await _end(holder)

    async def _is_listed(self, device: Device, pid: int) -> tuple[bool, str]:
        """Look until the process that holds a context is listed by its id, or it is too late."""
        listed = 0
        with anyio.move_on_after(LISTED_S):
            while True:
                holders = (await self.read(device, None)).holders
                if pid in holders:
                    return True, "NVML's process ids are ours"
                listed = len(holders)
                await anyio.sleep(_LOOK_EVERY_S)
        return False, f"NVML lists {listed} processes and not ours, which holds a context"

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
            await _end(helper)


async def _end(process: RunnerProcess) -> None:
    with anyio.CancelScope(shield=True), anyio.move_on_after(CALL_S):
        process.tree.kill()
        await process.gone()
    process.close()
