"""Which GPUs this worker has locked, and the conflict when another worker has the same lock.

A lock's file can be removed under its owner, and another worker may lock the new one. Then two
workers own a GPU, and neither can prove whose memory is on it. The worker that detects this reports
it, and its probe treats the GPU as lost: its step ends and is tried elsewhere, and its slot takes
no work until the lock returns.
"""

import logging
from pathlib import Path

from shared.linux.file_lock import FileLock, LockTaken, LockUnusable
from shared.readiness import NotReady
from supervisor.devices.device import Device

log = logging.getLogger(__name__)


class DeviceLocks:
    """One lock per GPU. CPU slots take none: two workers may share a CPU."""

    def __init__(self) -> None:
        self._locks: dict[str, FileLock] = {}
        self.conflicts: dict[str, str] = {}  # by device: who has its lock now, as text

    def acquire(self, folder: Path, devices: list[Device]) -> None:
        """Lock every GPU. Raises `NotReady` for the first that is another worker's."""
        for device in devices:
            if device.kind != "cpu":
                self._locks[device.id] = _acquire(folder, device)

    def refresh(self) -> None:
        """Refresh the lock files, and record which of them another process has."""
        for device_id, lock in self._locks.items():
            try:
                lock.refresh()
            except LockTaken as taken:
                conflict = f"its lock was removed, and process {taken.holder} has a new one"
                log.error("GPU %s is owned twice: %s", device_id, conflict)
                self.conflicts[device_id] = conflict
            else:
                self.conflicts.pop(device_id, None)

    def release(self) -> None:
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()


def device_lock(folder: Path, device_id: str) -> Path:
    return folder / f"device-{device_id}.lock"


def _acquire(folder: Path, device: Device) -> FileLock:
    try:
        return FileLock(device_lock(folder, device.id))
    except LockTaken as refused:
        raise NotReady(
            f"GPU {device.id} belongs to the worker with pid {refused.holder}, and a worker serves "
            "every GPU that it sees; stop that one first, or set DF_DEVICE=cpu (locks: DF_LOCK_DIR)"
        ) from None
    except LockUnusable as error:
        raise NotReady(f"DF_LOCK_DIR: {error}; remove it, or set another folder") from None
