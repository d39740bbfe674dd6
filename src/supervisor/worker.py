"""The worker process: settings, checks, then Celery here and the supervisor on its own thread."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from uuid import UUID, uuid4

import anyio
import psutil

from runner import entry as runner_entry
from shared.auth import is_loopback
from shared.db.engine import Database
from shared.db.step_store import PostgresStepStore
from shared.errors import InfraUnavailable
from shared.linux.file_lock import FileLock, LockTaken, LockUnusable
from shared.linux.prctl import adopt_orphans, hide_from_runners
from shared.linux.proc import lists_children
from shared.object_store import ObjectStore, open_store
from shared.readiness import NotReady, wait_for_parts
from shared.retention import prune
from shared.settings import Settings, forget_secrets, settings_or_exit
from shared.states import DEFAULT_QUEUE
from shared.telemetry.log_format import configure_logging
from shared.telemetry.setup import open_tracer
from shared.telemetry.spans import Tracer
from shared.timings import TIMINGS, Timings
from supervisor import health
from supervisor.devices.device import Device, DeviceLost, DeviceProbe
from supervisor.devices.discovery import open_probe
from supervisor.devices.ownership import DeviceLocks, ExclusiveProbe
from supervisor.dispatch.consumer import consume
from supervisor.maintenance.pruner import Pruner
from supervisor.membership.heartbeat import Presence
from supervisor.membership.local_models import LocalModels
from supervisor.membership.registration import register_exclusive
from supervisor.metrics import Metrics
from supervisor.processes.child import start_tracker
from supervisor.processes.orphans import kill_orphans, remove_dead_lock
from supervisor.processes.tree import is_alive
from supervisor.processes.worker_mark import worker_lock, worker_mark
from supervisor.slots.runner_pool import RunnerPool
from supervisor.slots.table import SlotTable
from supervisor.supervisor import Ports, Supervisor, repeat_every

log = logging.getLogger(__name__)

PROGRAM = "dreamforge worker"


def main(timings: Timings = TIMINGS) -> int:
    """Run a worker until a signal ends it; return the process's exit code."""
    settings = settings_or_exit(PROGRAM)
    configure_logging(settings.log_level)
    forget_secrets()
    adopt_orphans()
    hide_from_runners()
    thread = SupervisorThread(settings, timings)
    try:
        check_kernel()
        check_port(settings)
        anyio.run(wait_for_parts, settings)
        code = consume(
            settings.redis_url.get_secret_value(),
            (DEFAULT_QUEUE,),
            thread,
            name=f"dreamforge@{platform.node()}.{os.getpid()}",
        )
    except NotReady as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 1
    if thread.failure is not None:
        sys.stderr.write(f"{PROGRAM}: {thread.failure}\n")
        return 1
    return code


def check_kernel() -> None:
    """Raise `NotReady` where a runner's processes could not be found."""
    if not lists_children():
        raise NotReady(
            "/proc lists no children of a process, so what a runner starts could not be ended; "
            "use a kernel with CONFIG_PROC_CHILDREN, with /proc mounted"
        )


def check_port(settings: Settings) -> None:
    """Raise `NotReady` for an address that may not, or cannot, be listened on."""
    if not (settings.api_keys or is_loopback(settings.worker_host)):
        raise NotReady(
            f"DF_WORKER_HOST={settings.worker_host} would show the worker to the network without "
            "API keys; set DF_API_KEYS, or use 127.0.0.1"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.worker_host, settings.worker_port))
        except OSError as error:
            raise NotReady(
                f"port {settings.worker_port} on {settings.worker_host}: {error.strerror}; "
                "set DF_WORKER_PORT to another one"
            ) from None


def open_database(settings: Settings) -> Database:
    # A connection per slot that writes, one each for claims, leases, cancels, sweeps and presence.
    return Database(
        settings.database_url.get_secret_value(), pool_size=8, application="dreamforge-worker"
    )


class SupervisorThread:
    """The thread that owns every runner. Celery's bootstep starts and drains it."""

    def __init__(self, settings: Settings, timings: Timings = TIMINGS) -> None:
        self._settings = settings
        self._timings = timings
        self._metrics = Metrics()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=False)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._supervisor: Supervisor | None = None
        self._draining = threading.Event()
        self.failure: str | None = None

    def start(self) -> None:
        self._thread.start()

    def notify(self) -> None:
        self._call(Supervisor.notify)

    def count_dead_letter(self) -> None:
        self._metrics.dead_letters.labels(kind="message").inc()

    def drain(self) -> None:
        self._draining.set()
        self._call(Supervisor.drain)
        self._thread.join()

    def _call(self, method: Callable[[Supervisor], None]) -> None:
        if self._loop is not None and self._supervisor is not None:
            try:
                self._loop.call_soon_threadsafe(method, self._supervisor)
            except RuntimeError:
                log.info("the supervisor's loop has ended already")

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except NotReady as error:
            self.failure = str(error)
        except BaseException as error:
            log.exception("the supervisor failed")
            self.failure = f"the supervisor failed: {error!r}"
        if self.failure is not None:
            # Without a supervisor the process is useless; the consumer must not go on hearing.
            os.kill(os.getpid(), signal.SIGTERM)

    async def _serve(self) -> None:
        settings, worker_id = self._settings, uuid4()
        database, objects = open_database(settings), open_store(settings)
        tracer = open_tracer(settings, "dreamforge-worker", self._metrics.count_spans)
        with ExitStack() as held:
            try:
                own = FileLock(worker_lock(settings.lock_dir, worker_id))
                held.callback(own.remove)
                orphans = await anyio.to_thread.run_sync(kill_orphans, settings.lock_dir)
            except LockUnusable as error:
                raise NotReady(f"DF_LOCK_DIR: {error}; remove it, or set another folder") from None
            start_tracker()
            locks = DeviceLocks()
            held.callback(locks.release)
            probe = ExclusiveProbe(
                open_probe(settings, worker_mark(settings.lock_dir, worker_id)), locks
            )
            try:
                devices = await find_devices(probe)
                locks.acquire(settings.lock_dir, devices)
                keep = partial(refresh_locks, own, locks)
                await self._supervise(
                    worker_id, database, objects, probe, devices, keep, orphans, tracer
                )
            finally:
                with anyio.CancelScope(shield=True):
                    await close_parts(probe, database, tracer)

    async def _supervise(
        self,
        worker_id: UUID,
        database: Database,
        objects: ObjectStore,
        probe: DeviceProbe,
        devices: list[Device],
        keep_locks: Callable[[], Awaitable[object]],
        orphans: list[psutil.Process],
        tracer: Tracer | None,
    ) -> None:
        settings, metrics, slots = self._settings, self._metrics, SlotTable(devices)
        models = LocalModels(database, settings.models_dir)
        ports = Ports(
            store=PostgresStepStore(database),
            objects=objects,
            probe=probe,
            runners=RunnerPool(
                runner_entry.main,
                worker_mark=worker_mark(settings.lock_dir, worker_id),
                standby=settings.standby,
            ),
            models=lambda: tuple(models.checksums),
            model_folder=models.folder,
            survivors=lambda: [orphan.pid for orphan in orphans if is_alive(orphan)],
            tracer=tracer,
        )
        supervisor = Supervisor(worker_id, settings, ports, metrics, slots, self._timings)
        presence = Presence(worker_id, database, slots, models)
        self._loop, self._supervisor = asyncio.get_running_loop(), supervisor
        await register_exclusive(
            presence,
            is_dead=partial(remove_dead_lock, settings.lock_dir),
            stopping=self._draining.is_set,
        )
        if self._draining.is_set():
            return
        app = health.create_app(
            health.Health(
                metrics=metrics,
                slots=slots,
                checks={"postgresql": database.ping, "object store": objects.ping},
                draining=lambda: supervisor.draining,
                keys=() if is_loopback(settings.worker_host) else settings.api_keys,
            )
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(health.serve, app, settings.worker_host, settings.worker_port)
            tasks.start_soon(repeat_every, self._timings.heartbeat_s, presence.heartbeat)
            tasks.start_soon(repeat_every, self._timings.heartbeat_s, keep_locks)
            tasks.start_soon(Pruner(partial(prune, database, objects, settings), metrics).keep)
            await supervisor.run()
            tasks.cancel_scope.cancel()
        try:
            await presence.deregister()
        except InfraUnavailable as error:
            log.warning("left without a good-bye: %s", error.message)


async def close_parts(probe: DeviceProbe, database: Database, tracer: Tracer | None) -> None:
    """Let go of everything. Traces go out meanwhile, so that they cost the stop grace nothing."""
    async with anyio.create_task_group() as tasks:
        if tracer is not None:
            tasks.start_soon(anyio.to_thread.run_sync, tracer.close)
        await probe.close()
        await database.close()


async def find_devices(probe: DeviceProbe) -> list[Device]:
    """The devices of this host; there must be one."""
    try:
        devices = await probe.devices()
    except DeviceLost as error:
        raise NotReady(f"DF_DEVICE: {error}; DF_DEVICE=cpu serves the CPU alone") from error
    if not devices:
        raise NotReady("DF_DEVICE: NVML lists no GPU to serve; set DF_DEVICE=cpu to serve the CPU")
    async with anyio.create_task_group() as tasks:
        for device in devices:
            if device.lost:
                log.error("GPU %s is lost: %s", device.id, device.lost)
            elif device.kind != "cpu":
                tasks.start_soon(log_foreign_use, probe, device)
    return devices


async def log_foreign_use(probe: DeviceProbe, device: Device) -> None:
    """Say what is in use before we do anything: it is counted as foreign, and nobody proves it."""
    try:
        now = await probe.read(device, None)
    except DeviceLost as error:
        log.error("GPU %s is lost: %s", device.id, error)
        return
    log.info(
        "GPU %s: %d of %d bytes are in use at the start, by processes %s; they count as foreign",
        device.id,
        now.used_bytes,
        now.total_bytes,
        now.holders or "that NVML does not list",
    )


async def refresh_locks(own: FileLock, locks: DeviceLocks) -> None:
    """Keep the files of our locks young: /tmp is cleared of old ones on many hosts."""
    try:
        own.refresh()
    except LockTaken as taken:  # who looks for orphans holds it for a moment
        log.error("the worker's own lock was removed, and process %s has it", taken.holder)
    locks.refresh()
