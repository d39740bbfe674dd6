"""The worker process: settings, checks, then Celery here and the supervisor on its own thread."""

import asyncio
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio

from runner import entry as runner_entry
from shared.addresses import joined, listening
from shared.auth import is_loopback
from shared.db.step_store import PostgresStepStore
from shared.errors import InfraUnavailable
from shared.linux.prctl import adopt_orphans, hide_from_others
from shared.linux.proc import lists_children
from shared.linux.sandbox import places_of
from shared.linux.umask import forbid_writing_by_others
from shared.printable import escape_controls
from shared.readiness import NotReady, wait_for_parts
from shared.retention import prune
from shared.settings import Settings, forget_secrets, settings_or_exit
from shared.telemetry.log_format import configure_logging
from shared.telemetry.setup import open_tracer
from shared.timings import TIMINGS, Timings
from supervisor import health
from supervisor.devices.cgroup import total_bytes
from supervisor.dispatch.consumer import consume
from supervisor.execution.byte_budget import ByteBudget
from supervisor.execution.context import WorkerContext
from supervisor.execution.picture_store import PictureStore
from supervisor.maintenance.pruner import prune_daily
from supervisor.membership.heartbeat import Presence
from supervisor.membership.local_models import LocalModels
from supervisor.membership.registration import register_exclusive
from supervisor.metrics import Metrics
from supervisor.processes.containment import Containment, NotContained, decide, read_kernel
from supervisor.processes.orphans import remove_dead_lock
from supervisor.processes.spawned import SpawnedProcess
from supervisor.resources import WorkerResources, open_resources
from supervisor.slots.runner_pool import FORKED_KINDS, RunnerPool, marker_series
from supervisor.slots.table import SlotTable
from supervisor.supervisor import Supervisor, repeat_every
from supervisor.templates.places import ModelPlaces
from supervisor.templates.templates import Templates

log = logging.getLogger(__name__)

PROGRAM = "dreamforge worker"


def main(timings: Timings = TIMINGS) -> int:
    """Run a worker until a signal ends it; return the process's exit code."""
    hide_from_others()
    settings = settings_or_exit(PROGRAM)
    configure_logging(settings.log_level)
    forget_secrets()
    forbid_writing_by_others()
    adopt_orphans()
    try:
        check_kernel()
        check_port(settings)
        thread = SupervisorThread(settings, containment(settings), timings)
        anyio.run(wait_for_parts, settings)
        code = consume(
            settings.redis_url.get_secret_value(),
            thread,
            name=f"dreamforge@{platform.node()}.{os.getpid()}",
        )
    except NotReady as error:
        sys.stderr.write(f"{PROGRAM}: {escape_controls(str(error))}\n")
        return 1
    if thread.failure is not None:
        sys.stderr.write(f"{PROGRAM}: {escape_controls(thread.failure)}\n")
        return 1
    return code


def check_kernel() -> None:
    """Raise `NotReady` where the kernel does not list a process's children."""
    if not lists_children():
        raise NotReady(
            "/proc lists no children of a process, so what a runner starts could not be ended; "
            "use a kernel with CONFIG_PROC_CHILDREN, with /proc mounted"
        )


def containment(settings: Settings) -> Containment:
    """How runners are contained. Raises `NotReady` where `DF_SANDBOX` asks for more."""
    try:
        return decide(settings.sandbox, settings.models_dir, read_kernel())
    except NotContained as error:
        raise NotReady(str(error)) from None


def check_port(settings: Settings) -> None:
    """Raise `NotReady` for an address that the worker may not, or cannot, listen on."""
    if not (settings.api_keys or is_loopback(settings.worker_host)):
        raise NotReady(
            f"DF_WORKER_HOST={settings.worker_host} would show the worker to the network without "
            "API keys; set DF_API_KEYS, or use 127.0.0.1"
        )
    address = joined(settings.worker_host, settings.worker_port)
    try:
        family, bound_to = listening(settings.worker_host, settings.worker_port)
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(bound_to)
    except OSError as error:
        raise NotReady(
            f"cannot listen on {address}: {error.strerror}; see DF_WORKER_HOST and DF_WORKER_PORT"
        ) from None


def open_runner_pool(
    settings: Settings, metrics: Metrics, resources: WorkerResources, held: Containment
) -> RunnerPool:
    """Runners as `DF_RUNNER_START` says. No template is started yet."""
    next_marker = marker_series(resources.mark)
    kinds = {device.kind for device in resources.devices}
    for kind in sorted(kinds):
        log.info("%s", held.describe(kind))
    forked = FORKED_KINDS[settings.runner_start] & kinds

    def spawn_template() -> SpawnedProcess:
        process = SpawnedProcess(
            runner_entry.template,
            marker=next_marker(),
            # No device: it must not open one, and a runner that it forks gets its own.
            environment={"CUDA_VISIBLE_DEVICES": "", **held.template_environment(forked)},
        )
        if resources.groups is not None:
            resources.groups.adopt(process.pid)
        return process

    places = ModelPlaces(partial(places_of, str(settings.models_dir.absolute())))
    templates = Templates(
        spawn_template,
        next_marker,
        metrics,
        warm_bytes=total_bytes() // 4 if settings.warm_bytes is None else settings.warm_bytes,
        warm_s=settings.warm_s,
        places=places,
    )
    return RunnerPool(
        runner_entry.main,
        next_marker,
        metrics,
        standby=settings.standby,
        templates=templates if forked else None,
        forked=forked,
        contain=held.environment,
        places=places,
        groups=resources.groups,
        slots=len(resources.devices),
    )


def groups_status(resources: WorkerResources) -> dict[str, object]:
    """As `/readyz` shows it: below which group each step has one, or why there are none."""
    groups = resources.groups
    if groups is None:
        return {"below": None, "lacks": resources.no_groups}
    return {"below": str(groups.base), "bytes": groups.most_bytes}


def make_models_dir(folder: Path) -> None:
    """Make the folder of models if it is missing: what runners may read is fixed at their start."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("DF_MODELS_DIR: %s; restart the worker when it is there", error)


class SupervisorThread:
    """The thread that owns every runner. Celery's bootstep starts and drains it."""

    def __init__(
        self, settings: Settings, containment: Containment, timings: Timings = TIMINGS
    ) -> None:
        self._settings = settings
        self._containment = containment
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
            # Without a supervisor the process is useless: the consumer must end too.
            os.kill(os.getpid(), signal.SIGTERM)

    async def _serve(self) -> None:
        tracer = open_tracer(self._settings, "dreamforge-worker", self._metrics.count_spans)
        helpers = self._containment.helper_environment()
        async with open_resources(self._settings, tracer, helpers) as resources:
            await self._supervise(resources)

    async def _supervise(self, resources: WorkerResources) -> None:
        make_models_dir(self._settings.models_dir)
        slots = SlotTable(resources.devices)
        models = LocalModels(resources.database, self._settings.models_dir)
        supervisor = self._build_supervisor(resources, slots, models)
        presence = Presence(
            resources.worker_id,
            resources.database,
            slots,
            models,
            warm=lambda: supervisor.warm_models,
            serves=self._settings.serves,
        )
        self._loop, self._supervisor = asyncio.get_running_loop(), supervisor
        await register_exclusive(
            presence,
            is_dead=partial(remove_dead_lock, self._settings.lock_dir),
            stopping=self._draining.is_set,
        )
        if not self._draining.is_set():
            await self._run_supervisor(resources, supervisor, presence, models)

    def _build_supervisor(
        self, resources: WorkerResources, slots: SlotTable, models: LocalModels
    ) -> Supervisor:
        worker = WorkerContext(
            settings=self._settings,
            timings=self._timings,
            metrics=self._metrics,
            store=PostgresStepStore(resources.database),
            objects=PictureStore(resources.objects, refuses_after_s=self._timings.store_refuses_s),
            probe=resources.probe,
            runners=open_runner_pool(self._settings, self._metrics, resources, self._containment),
            byte_budget=ByteBudget(self._settings.spool_bytes),
            models=lambda: tuple(models.checksums),
            model_folder=models.folder,
            tracer=resources.tracer,
            previews=resources.previews if self._settings.previews else None,
        )
        return Supervisor(resources.worker_id, worker, slots, survivors=resources.survivors)

    async def _run_supervisor(
        self,
        resources: WorkerResources,
        supervisor: Supervisor,
        presence: Presence,
        models: LocalModels,
    ) -> None:
        settings = self._settings
        heartbeat_s, slots_s = self._timings.heartbeat_s, self._timings.report_slots_s
        database, objects = resources.database, resources.objects
        app = health.create_app(
            health.Health(
                metrics=self._metrics,
                slots=supervisor.slots,
                # Writes: what has a full disk answers all the same, and no step would end.
                checks={"postgresql": database.probe_write, "object store": objects.probe_write},
                draining=lambda: supervisor.draining,
                templates=lambda: supervisor.templates,
                sandbox=self._containment.status,
                control_groups=groups_status(resources),
                keys=() if is_loopback(settings.worker_host) else settings.api_keys,
            )
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(health.serve, app, settings.worker_host, settings.worker_port)
            tasks.start_soon(resources.publisher.run)
            tasks.start_soon(resources.previews.run)
            tasks.start_soon(
                repeat_every,
                min(slots_s, heartbeat_s),
                partial(presence.refresh, every_s=heartbeat_s),
            )
            tasks.start_soon(repeat_every, heartbeat_s, models.refresh)
            tasks.start_soon(repeat_every, heartbeat_s, resources.refresh_locks)
            tasks.start_soon(
                prune_daily, partial(prune, database, objects, settings), self._metrics
            )
            await supervisor.run()
            tasks.cancel_scope.cancel()
        try:
            await presence.deregister(resources.worker_id)
        except InfraUnavailable as error:
            log.warning("left without deregistering: %s", error)
