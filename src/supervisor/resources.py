"""What a worker opens at its start and closes at its end: connections, locks, devices."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio
import psutil

from shared.db.engine import Database
from shared.dispatch.event_channel import EventPublisher
from shared.dispatch.preview_channel import PreviewPublisher
from shared.linux.file_lock import FileLock, LockTaken, LockUnusable
from shared.linux.sandbox import NO_SANDBOX
from shared.object_store import ObjectStore, open_store
from shared.readiness import NotReady
from shared.settings import Settings
from shared.telemetry.spans import Tracer
from supervisor.devices.cgroup import total_bytes
from supervisor.devices.device import Device, DeviceProbe
from supervisor.devices.discovery import find_devices, open_probe
from supervisor.devices.ownership import DeviceLocks
from supervisor.processes.control_groups import ControlGroups, NoGroups, open_groups
from supervisor.processes.orphans import kill_orphans
from supervisor.processes.tree import is_alive
from supervisor.processes.worker_mark import worker_lock, worker_mark

log = logging.getLogger(__name__)

# The worker and its helpers. More than they take, so that the kernel never looks for a process to
# kill among them.
WORKER_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerResources:
    """The open resources of one worker. `orphans` are processes that survived SIGKILL."""

    worker_id: UUID
    mark: str
    database: Database
    publisher: EventPublisher
    previews: PreviewPublisher
    objects: ObjectStore
    tracer: Tracer | None
    probe: DeviceProbe
    devices: list[Device]
    worker_lock: FileLock
    device_locks: DeviceLocks
    orphans: list[psutil.Process]
    groups: ControlGroups | None
    no_groups: str  # why there are none

    def survivors(self) -> list[int]:
        """Pids of orphans that still live."""
        return [orphan.pid for orphan in self.orphans if is_alive(orphan)]

    async def refresh_locks(self) -> None:
        """Keep the files of our locks young: many hosts delete old files of /tmp."""
        try:
            self.worker_lock.refresh()
        except LockTaken as taken:  # a worker that looks for orphans holds it for a moment
            log.error("the worker's own lock was removed, and process %s has it", taken.holder)
        self.device_locks.refresh()


@asynccontextmanager
async def open_resources(
    settings: Settings, tracer: Tracer | None, helpers: Mapping[str, str] = NO_SANDBOX
) -> AsyncIterator[WorkerResources]:
    """Take the locks, kill the orphans of dead workers, find the devices; close all at the end.

    `helpers` says how the processes that ask a GPU's driver are contained. Raises `NotReady`.
    """
    worker_id = uuid4()
    mark = worker_mark(settings.lock_dir, worker_id)
    # A connection per slot that writes, one each for claims, leases, cancels, rescues and presence.
    publisher = EventPublisher(settings.redis_url.get_secret_value())
    previews = PreviewPublisher(settings.redis_url.get_secret_value())
    database = Database(
        settings.database_url.get_secret_value(),
        pool_size=13,
        application="dreamforge-worker",
        on_events=publisher.publish,
    )
    objects = open_store(settings)
    with ExitStack() as locks:
        try:
            own_lock = FileLock(worker_lock(settings.lock_dir, worker_id))
            locks.callback(own_lock.remove)
            orphans = await anyio.to_thread.run_sync(kill_orphans, settings.lock_dir)
        except LockUnusable as error:
            raise NotReady(f"DF_LOCK_DIR: {error}; remove it, or set another folder") from None
        groups, no_groups = await anyio.to_thread.run_sync(_open_groups, settings, mark)
        if groups is not None:
            locks.callback(groups.close)
        device_locks = DeviceLocks()
        locks.callback(device_locks.release)
        probe = open_probe(
            settings,
            mark,
            device_locks,
            host_bytes=None if groups is None else groups.most_bytes,
            helpers=helpers,
        )
        try:
            devices = await find_devices(probe)
            device_locks.acquire(settings.lock_dir, devices)
            yield WorkerResources(
                worker_id=worker_id,
                mark=mark,
                database=database,
                publisher=publisher,
                previews=previews,
                objects=objects,
                tracer=tracer,
                probe=probe,
                devices=devices,
                worker_lock=own_lock,
                device_locks=device_locks,
                orphans=orphans,
                groups=groups,
                no_groups=no_groups,
            )
        finally:
            with anyio.CancelScope(shield=True):
                await close_connections(probe, database, tracer)
                await publisher.close()
                await previews.close()


def _open_groups(settings: Settings, mark: str) -> tuple[ControlGroups | None, str]:
    """Groups for steps, or why there are none; the log says it."""
    total = total_bytes()
    # The worker itself, with the pictures that wait for the store.
    most_bytes = total - min(total // 4, WORKER_BYTES + settings.spool_bytes)
    try:
        groups = open_groups(settings.lock_dir, mark, most_bytes)
    except NoGroups as error:
        log.warning("the memory of a step is not bounded by a control group: %s", error)
        return None, str(error)
    log.info("each step has a control group below %s, %d bytes in all", groups.base, most_bytes)
    return groups, ""


async def close_connections(probe: DeviceProbe, database: Database, tracer: Tracer | None) -> None:
    """Close all. Traces are sent at the same time, so that they add nothing to the stop grace."""
    async with anyio.create_task_group() as tasks:
        if tracer is not None:
            tasks.start_soon(anyio.to_thread.run_sync, tracer.close)
        await probe.close()
        await database.close()
