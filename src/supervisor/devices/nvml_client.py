"""The supervisor's end of one NVML helper: a request, an answer, never a wait without a deadline.

Each GPU has a helper of its own, so a GPU that hangs delays no other. Where a driver call hangs,
not even SIGKILL reaches the process in it. While such a process lives no other is started in its
place, and the GPU counts as lost at once instead of after another deadline.
"""

import logging
from collections.abc import Mapping
from typing import Any

import anyio

from shared.linux.sandbox import NO_SANDBOX
from shared.protocol.frames import FrameError
from supervisor.devices.device import DeviceLost, DriverAbsent
from supervisor.processes.child import Entry
from supervisor.processes.spawned import SpawnedProcess

log = logging.getLogger(__name__)

# The first request to a helper starts an interpreter and wakes a driver that may be asleep; after
# that a healthy NVML answers in milliseconds.
START_S = 20.0
CALL_S = 5.0
# SIGKILL needs no cooperation; a process that is there after this hangs in the driver.
END_S = 2.0

Answer = dict[str, Any]


class NvmlClient:
    """Calls one helper. After a hang or a failure the next call starts a new one, if it is gone."""

    def __init__(
        self, entry: Entry, marker: str, environment: Mapping[str, str] = NO_SANDBOX
    ) -> None:
        """`environment` says how the helper is contained."""
        self.entry = entry
        self._environment = environment
        self.helper: SpawnedProcess | None = None
        self._marker = marker
        self._stuck: SpawnedProcess | None = None
        self._turn = anyio.Lock()

    async def call(self, request: dict[str, Any], *, last: bool = False) -> Answer:
        """Send one request and return its answer. Raises `DeviceLost`, within a few deadlines.

        `last` ends the helper afterwards; the next call, if there is one, starts another.
        """
        try:
            with anyio.fail_after(START_S):
                await self._turn.acquire()
        except TimeoutError:
            raise DeviceLost("NVML is busy with earlier questions") from None
        try:
            self._check_stuck()
            answer = await self._call(request, CALL_S if self.helper else START_S)
            if last:
                await self._end()
            return answer
        finally:
            self._turn.release()

    async def close(self) -> None:
        await self._end()
        if self._stuck is not None:
            self._stuck.close()
            self._stuck = None

    async def _call(self, request: dict[str, Any], seconds: float) -> Answer:
        try:
            # Shielded: a call that is cancelled would leave its answer in the socket, and the next
            # call, perhaps about another instance, would take it for its own.
            with anyio.fail_after(seconds, shield=True):
                answer = await self._exchange(request)
        except TimeoutError as error:
            await self._end()
            raise DeviceLost(f"NVML did not answer within {seconds:g} s") from error
        except (OSError, FrameError) as error:
            await self._end()
            raise DeviceLost(f"the NVML helper ended: {error}") from error
        if "error" in answer:
            # The library learns only in a new process that a device was reset.
            await self._end()
            raise (DriverAbsent if answer.get("absent") else DeviceLost)(answer["error"])
        return answer

    async def _exchange(self, request: dict[str, Any]) -> Answer:
        if self.helper is None:
            self.helper = SpawnedProcess(
                self.entry, marker=self._marker, environment=self._environment
            )
        await self.helper.channel.send(request)
        frame = await self.helper.channel.receive()
        if frame is None:
            raise OSError("no answer")
        return frame.header

    async def _end(self) -> None:
        helper, self.helper = self.helper, None
        if helper is not None and not await helper.kill_and_close(END_S):
            log.error("NVML helper %d hangs in the driver and does not die", helper.pid)
            self._stuck = helper

    def _check_stuck(self) -> None:
        if self._stuck is None:
            return
        if self._stuck.tree.scan():
            raise DeviceLost(f"NVML helper {self._stuck.pid} hangs in the driver and does not die")
        self._stuck.close()
        self._stuck = None
