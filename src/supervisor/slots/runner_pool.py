"""Where a step's runner comes from: a standby, or a fresh process.

A standby is started ahead on its own slot's device, imports torch and waits. It serves one step and
no other, so isolation is the same; only the four seconds of imports are over already. It holds host
memory (about 280 MiB) but no context on the device: that begins with GO.
"""

import itertools
import logging

import anyio

from supervisor.devices.device import Device
from supervisor.processes.child import Entry
from supervisor.processes.spawned import SpawnedProcess

log = logging.getLogger(__name__)

# SIGKILL needs no cooperation; a standby that is there after this waits on hardware.
CLOSE_S = 10.0


class RunnerPool:
    """Starts the runners of one worker. Only the supervisor's thread uses it."""

    def __init__(self, entry: Entry, *, worker_mark: str, standby: bool) -> None:
        self._entry = entry
        self._worker_mark = worker_mark
        self._standby = standby
        self._standbys: dict[str, SpawnedProcess] = {}
        self._serial = itertools.count(1)

    def acquire(self, device: Device) -> SpawnedProcess:
        """Return the standby of this device if it still lives, else a fresh runner."""
        runner = self._standbys.pop(device.id, None)
        if runner is not None and runner.exitcode is None:
            return runner
        if runner is not None:
            log.warning("the standby of %s had ended: exit %s", device.id, runner.exitcode)
            runner.tree.kill()  # it may have left descendants
            runner.close()
        return self._start(device)

    def prewarm(self, device: Device) -> None:
        """Start a standby for this device, unless standbys are off or it has one."""
        if not self._standby or device.id in self._standbys:
            return
        try:
            self._standbys[device.id] = self._start(device)
        except OSError as error:  # out of processes or descriptors; the next step tries again
            log.warning("no standby for %s: %s", device.id, error)

    async def close(self) -> None:
        """Kill every standby. They hold no device memory, so no SIGTERM comes first."""
        standbys, self._standbys = self._standbys, {}
        async with anyio.create_task_group() as tasks:
            for runner in standbys.values():
                tasks.start_soon(_kill, runner)

    def _start(self, device: Device) -> SpawnedProcess:
        marker = f"{self._worker_mark}:{next(self._serial)}"
        return SpawnedProcess(self._entry, marker=marker, environment=device.environment)


async def _kill(runner: SpawnedProcess) -> None:
    if not await runner.kill_and_close(CLOSE_S):
        log.error("standby %d does not die", runner.pid)
        runner.close()
