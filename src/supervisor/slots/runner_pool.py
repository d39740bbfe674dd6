"""Where a step's runner comes from: one that stands by, or a fresh one.

A standby is started ahead on its own slot's device, imports torch and waits. It is used once and
never again, so isolation is the same; only the four seconds of imports have happened already. It
holds host memory (about 280 MiB), but no context on the device: that begins with GO.
"""

from __future__ import annotations

import itertools
import logging

import anyio

from supervisor.devices.device import Device
from supervisor.processes.child import Entry, RunnerProcess

log = logging.getLogger(__name__)

# SIGKILL needs no cooperation; who is there after this waits on hardware, and must not keep us.
CLOSE_S = 10.0


class RunnerPool:
    """Starts runners of one worker. Lives on the supervisor's thread alone."""

    def __init__(self, entry: Entry, *, worker_mark: str, standby: bool) -> None:
        self._entry = entry
        self._worker_mark = worker_mark
        self._standby = standby
        self._waiting: dict[str, RunnerProcess] = {}
        self._serial = itertools.count(1)

    def acquire(self, device: Device) -> RunnerProcess:
        """The standby of this device if it still lives, else a fresh runner."""
        runner = self._waiting.pop(device.id, None)
        if runner is not None and runner.exitcode is None:
            return runner
        if runner is not None:
            log.warning("the standby of %s had ended: exit %s", device.id, runner.exitcode)
            runner.tree.kill()  # whom it may have left
            runner.close()
        return self._start(device)

    def prewarm(self, device: Device) -> None:
        """Have a standby for this device, unless standbys are off or it has one."""
        if not self._standby or device.id in self._waiting:
            return
        try:
            self._waiting[device.id] = self._start(device)
        except OSError as error:  # no process or no descriptor to be had; the next step tries again
            log.warning("no standby for %s: %s", device.id, error)

    async def close(self) -> None:
        """End every standby. They hold nothing, so there is nothing to ask politely for."""
        waiting, self._waiting = self._waiting, {}
        for runner in waiting.values():
            runner.tree.kill()
        async with anyio.create_task_group() as tasks:
            for runner in waiting.values():
                tasks.start_soon(_finish, runner)

    def _start(self, device: Device) -> RunnerProcess:
        marker = f"{self._worker_mark}:{next(self._serial)}"
        return RunnerProcess(self._entry, marker=marker, environment=device.environment)


async def _finish(runner: RunnerProcess) -> None:
    with anyio.move_on_after(CLOSE_S) as late:
        await runner.wait_gone()
    if late.cancelled_caught:
        log.error("standby %d does not die", runner.pid)
    runner.close()
