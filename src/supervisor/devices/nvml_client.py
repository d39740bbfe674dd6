"""The supervisor's end of one NVML helper: a question, an answer, never a wait without a deadline.

There is a helper for each GPU. A wedged one then costs no other GPU a moment, and the process that
hangs in its driver call, where not even SIGKILL reaches it, is one process: while it lives no other
is started in its place, and the GPU is lost at once instead of after another deadline.
"""

from __future__ import annotations

import logging
from typing import Any

import anyio

from shared.protocol.frames import FrameError
from supervisor.devices.device import DeviceLost
from supervisor.processes.child import Entry, RunnerProcess

log = logging.getLogger(__name__)

# The first question to a helper starts an interpreter and wakes a driver that may be asleep; after
# that a healthy NVML answers in milliseconds.
START_S = 20.0
CALL_S = 5.0
# SIGKILL needs no cooperation; who is there after this hangs in the driver.
END_S = 2.0

Answer = dict[str, Any]


class NvmlClient:
    """Asks one helper. One that hangs or fails is replaced for the next question, if it is gone."""

    def __init__(self, entry: Entry, marker: str) -> None:
        self._entry = entry
        self._marker = marker
        self._helper: RunnerProcess | None = None
        self._stuck: RunnerProcess | None = None
        self._asking = anyio.Lock()

    async def call(self, request: dict[str, Any], *, last: bool = False) -> Answer:
        """One question, one answer; `DeviceLost` for anything else, within a few deadlines.

        After the `last` one the helper is ended, and another one started for the next, if it comes.
        """
        try:
            with anyio.fail_after(START_S):
                await self._asking.acquire()
        except TimeoutError:
            raise DeviceLost("NVML is busy with earlier questions") from None
        try:
            self._check_stuck()
            answer = await self._call(request, CALL_S if self._helper else START_S)
            if last:
                await self._end()
            return answer
        finally:
            self._asking.release()

    async def close(self) -> None:
        await self._end()
        if self._stuck is not None:
            self._stuck.close()
            self._stuck = None

    async def _call(self, request: dict[str, Any], seconds: float) -> Answer:
        try:
            # Shielded: a question given up half-way would leave its answer in the socket, and the
            # next question, perhaps about another instance, would take it for its own.
            with anyio.fail_after(seconds, shield=True):
                answer = await self._exchange(request)
        except TimeoutError as error:
            await self._end()
            raise DeviceLost(f"NVML did not answer within {seconds:g} s") from error
        except (OSError, FrameError) as error:
            await self._end()
            raise DeviceLost(f"the NVML helper ended: {error}") from error
        if "error" in answer:
            # What the library knows of a device that was reset it knows only in a new process.
            await self._end()
            raise DeviceLost(answer["message"])
        return answer

    async def _exchange(self, request: dict[str, Any]) -> Answer:
        if self._helper is None:
            self._helper = RunnerProcess(self._entry, marker=self._marker, environment={})
        await self._helper.channel.send(request)
        frame = await self._helper.channel.receive()
        if frame is None:
            raise OSError("no answer")
        return frame.header

    async def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None and not await end(helper):
            log.error("NVML helper %d hangs in the driver and does not die", helper.pid)
            self._stuck = helper

    def _check_stuck(self) -> None:
        if self._stuck is None:
            return
        if self._stuck.tree.scan():
            raise DeviceLost(f"NVML helper {self._stuck.pid} hangs in the driver and does not die")
        self._stuck.close()
        self._stuck = None


async def end(process: RunnerProcess) -> bool:
    """Kill it, and give its descriptors back if it is gone within `END_S`; whether it is."""
    process.tree.kill()
    with anyio.CancelScope(shield=True), anyio.move_on_after(END_S):
        await process.wait_gone()
        process.close()
        return True
    return False
