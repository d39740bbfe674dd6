"""A whole supervisor inside the test's own process: real runners, no database, broker or store.

    async with serving(main) as bench:
        job = bench.submit("quick")
        await bench.ended(job)

Leaving the block drains the supervisor and then asserts what must hold after any step whatever:
no process of any runner is left, and each step has one verdict.
"""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import anyio
import psutil
from tests.support import runners
from tests.support.memory_objects import MemoryObjects
from tests.support.memory_store import MemoryStepStore, StoredJob, StoredStep, Work

from runner import entry as runner_entry
from shared.events import Code, NewEvent
from shared.linux.prctl import adopt_orphans
from shared.settings import Settings
from shared.states import TERMINAL
from shared.telemetry.spans import Tracer
from shared.timings import Timings
from supervisor.devices.cpu import CpuProbe
from supervisor.devices.device import DeviceProbe
from supervisor.execution.byte_budget import ByteBudget
from supervisor.execution.context import Previews, WorkerContext
from supervisor.execution.picture_store import PictureStore
from supervisor.metrics import Metrics
from supervisor.outcomes import result
from supervisor.processes.child import Entry
from supervisor.processes.control_groups import ControlGroups
from supervisor.processes.spawned import SpawnedProcess
from supervisor.processes.tree import trees
from supervisor.processes.worker_mark import marker_of
from supervisor.slots.runner_pool import FORKED_KINDS, RunnerPool, marker_series
from supervisor.slots.table import Slot, SlotTable
from supervisor.supervisor import Supervisor
from supervisor.templates.places import ModelPlaces
from supervisor.templates.template import TemplateState
from supervisor.templates.templates import Templates

# A bound for a machine that is busy with other things, never a wait.
DEADLINE_S = 40.0
_LOOK_EVERY_S = 0.01
# How often the supervisor looks at what it looks at again and again.
SLOTS: dict[str, Any] = {"REVERIFY_EVERY_S": 0.05}
BUSY: dict[str, Any] = {"VRAM_RETRY_S": 0.05}
# The fence is at 2 s, the dead-man timer at 3.6 s, all within a lease of 4 s.
SHORT_LEASE: dict[str, Any] = {"lease_s": 4.0, "lease_renew_s": 0.1, "kill_deadline_s": 1.5}
_TIMES = {field.name for field in dataclasses.fields(Timings)}
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h

PRESET = {
    "name": "cpu",
    "version": 1,
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
    "timeout_s": 60.0,
    "max_pixels": 1 << 20,
    "max_steps": 100,
    "vram_bytes": {},
}


# Of a worker without parts. A suite that runs both ways changes `runner_start`.
SETTINGS: dict[str, Any] = {
    "database_url": "postgresql://nobody@localhost/none",
    "redis_url": "redis://localhost:1/0",
    "s3_endpoint": "http://localhost:1",
    "s3_access_key": "none",
    "s3_secret_key": "none",
    "device": "cpu",
    "runner_start": "spawn",
    "standby": False,
    "drain_s": 0.0,
}


def settings_for_tests(**changes: Any) -> Settings:
    """Settings of a worker without parts."""
    return Settings(_env_file=None, **(SETTINGS | changes))


def timings_for_tests(**changes: float) -> Timings:
    """Short graces where the test waits for their end, long deadlines where it must not see it."""
    short = {
        "poll_s": 0.05,
        "cancel_watch_s": 0.05,
        "rescue_every_s": 0.05,
        "lease_margin_s": 0.2,
        "term_grace_s": 0.3,
        "exit_grace_s": 5.0,
        "kill_deadline_s": 10.0,
        "reclaim_deadline_s": 10.0,
        "retry_base_s": 0.01,
        "retry_cap_s": 0.02,
    }
    return Timings(**(short | changes))


async def until(condition: Callable[[], object], what: Callable[[], object] | str) -> None:
    """Wait for a fact; fail saying which one did not come about, or what there was instead."""
    with anyio.move_on_after(DEADLINE_S):
        while not condition():
            await anyio.sleep(_LOOK_EVERY_S)
        return
    raise AssertionError(
        f"not within {DEADLINE_S:g} s: {what if isinstance(what, str) else what()}"
    )


@dataclass(kw_only=True, slots=True)
class Bench:
    supervisor: Supervisor
    byte_budget: ByteBudget
    store: MemoryStepStore
    objects: MemoryObjects
    pictures: PictureStore  # the same, as the steps see it
    settings: Settings
    timings: Timings
    metrics: Metrics
    runners: RunnerPool
    preset: dict[str, Any]
    timeout_s: float
    before: set[psutil.Process] = field(default_factory=set)

    @property
    def spool_bytes(self) -> int:
        """Bytes of finished images that wait for the store."""
        return self.byte_budget.used_bytes

    @property
    def spool_full(self) -> bool:
        return self.byte_budget.full

    @property
    def slots(self) -> list[Slot]:
        return list(self.supervisor.slots)

    @property
    def slot(self) -> Slot:
        (slot,) = self.slots
        return slot

    def submit(self, prompt: str, *, count: int = 1, **changes: Any) -> UUID:
        """A job of one step whose runner behaves as `prompt` says; rings the doorbell."""
        job_id = self.store.create(self.work(prompt, count=count, **changes), count=count)
        self.supervisor.notify()
        return job_id

    def work(self, prompt: str, *, count: int = 1, **changes: Any) -> Work:
        params = {"prompt": prompt, "width": 64, "height": 64, "steps": 4, "guidance": 3.0}
        facts = {
            "params": params | {"seed": 7, "count": count},
            "preset": self.preset,
            "device": self.preset["device"],
            "timeout_s": self.timeout_s,
        }
        return Work(**(facts | changes))

    def upscale(self, behaviour: str, *, count: int = 1, **changes: Any) -> Work:
        """An upscale step whose runner behaves so."""
        facts = {
            "name": "upscale",
            "type": "upscale",
            "params": {"impl": "resample", "scale": 2, "count": count},
            "preset": self.preset | {"name": behaviour},
            "needs_model": False,
        }
        return self.work("", count=count, **(facts | changes))

    def chain(self, behaviour: str, *, first: str = "quick", count: int = 1) -> UUID:
        """A job that generates and then upscales."""
        works = self.work(first, count=count), self.upscale(behaviour, count=count)
        job_id = self.store.create(*works, count=count)
        self.supervisor.notify()
        return job_id

    def job(self, job_id: UUID) -> StoredJob:
        return self.store.jobs[job_id]

    def step(self, job_id: UUID) -> StoredStep:
        (step,) = self.store.steps_of(job_id)
        return step

    def events(self, job_id: UUID, code: Code) -> list[NewEvent]:
        return [event for event in self.job(job_id).events if event.code == code]

    def codes(self, job_id: UUID) -> list[str]:
        return [str(event.code) for event in self.job(job_id).events]

    def payload(self, job_id: UUID, code: Code) -> dict[str, Any]:
        """The payload of the one event of this code."""
        (event,) = self.events(job_id, code)
        return dict(event.payload or {})

    def signals(self, job_id: UUID) -> list[str]:
        return [str((e.payload or {})["signal"]) for e in self.events(job_id, Code.SIGNAL_SENT)]

    async def ended(self, job_id: UUID) -> StoredStep:
        """Wait for the verdict on the job; return its step."""
        await until(lambda: self.job(job_id).reason is not None, lambda: self.codes(job_id))
        return self.store.steps_of(job_id)[-1]

    async def running(self, job_id: UUID) -> None:
        """Wait until the runner works: its first progress has been recorded."""
        await until(lambda: self.events(job_id, Code.PROGRESS), lambda: self.codes(job_id))

    async def reaches(self, job_id: UUID, state: str) -> None:
        """Wait until this state of the job's step has been stored."""
        await until(lambda: state in self.step(job_id).history, lambda: self.step(job_id).history)

    async def in_state(self, *states: str) -> None:
        """Wait until every slot is in one of these states."""
        await until(
            lambda: all(slot.state in states for slot in self.slots),
            lambda: [str(slot.state) for slot in self.slots],
        )

    def children(self) -> set[psutil.Process]:
        """Descendants of this process that were not there before, but its templates; zombies
        included."""
        return set(self._without_templates(_children() - self.before))

    def processes(self) -> list[psutil.Process]:
        """Everything that lives and carries a marker of this worker, but its templates."""
        return self._without_templates(marked(self.supervisor.worker_id))

    def _without_templates(self, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
        """Nor what stands between a template and its fork, for a moment, or has ended since."""
        templates = self.template_pids()
        return [
            each
            for each in processes
            if each.pid not in templates and _parent_of(each) not in {None, *templates}
        ]

    async def begun(self) -> None:
        """Wait until every slot has had its first verdict, and the template is ready if there is
        to be one."""
        await self.in_state("free", "lost", "quarantined")
        if FORKED_KINDS[self.settings.runner_start]:
            await until(lambda: TemplateState.READY in self.template_states(), "a template")

    def template_states(self) -> list[TemplateState]:
        return [template.state for template in self.runners.templates]

    def template_pids(self) -> set[int]:
        """Those that are forked already: a model template is listed before it has a pid."""
        return {each.pid for each in self.runners.templates if each.pid is not None}


def _parent_of(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return None


def marked(worker_id: UUID) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter()
        if str(worker_id) in (marker_of(process.pid) or "")
    ]


@asynccontextmanager
async def serving(
    entry: Entry,
    *,
    probe: DeviceProbe | None = None,
    slots: int = 1,
    preset: dict[str, Any] | None = None,
    timeout_s: float = 60.0,
    worker_id: UUID | None = None,
    survivors: Callable[[], list[int]] = list,
    failing: bool = False,
    models_folder: Path = Path("/nowhere"),
    imports: str = "tests.support.template_imports",
    tracer: Tracer | None = None,
    previews: Previews | None = None,
    groups: ControlGroups | None = None,
    places: Callable[[], object] = lambda: None,
    **changes: Any,
) -> AsyncIterator[Bench]:
    """A supervisor that serves until the block ends, and leaves nothing.

    `changes` are settings and timings. `imports` is the module that a template imports, where
    `runner_start` says that there is one. `failing`: the test makes something of ours raise, so
    that it is reported is right.
    """
    worker_id = worker_id or uuid4()
    times = {name: changes.pop(name) for name in _TIMES & changes.keys()}
    settings, timings = settings_for_tests(**changes), timings_for_tests(**times)
    probe = probe or CpuProbe(slots)
    store, objects, metrics = MemoryStepStore(), MemoryObjects(), Metrics()
    runners = _runner_pool(
        entry,
        settings,
        metrics,
        f"test:{worker_id}",
        imports,
        groups=groups,
        places=ModelPlaces(places),
        slots=slots,
    )
    worker = WorkerContext(
        settings=settings,
        timings=timings,
        metrics=metrics,
        store=store,
        objects=PictureStore(objects, refuses_after_s=timings.store_refuses_s),
        probe=probe,
        runners=runners,
        byte_budget=ByteBudget(settings.spool_bytes),
        models=lambda: store.model_ids,
        model_folder=lambda model: models_folder / model.name,
        tracer=tracer,
        previews=previews,
    )
    table = SlotTable(await probe.devices())
    supervisor = Supervisor(worker_id, worker, table, survivors=survivors)
    bench = Bench(
        supervisor=supervisor,
        byte_budget=worker.byte_budget,
        store=store,
        objects=objects,
        pictures=worker.objects,
        settings=settings,
        timings=timings,
        metrics=metrics,
        runners=runners,
        preset=preset or PRESET,
        timeout_s=timeout_s,
    )
    ended = anyio.Event()

    async def run() -> None:
        await supervisor.run()
        ended.set()

    with _worker_process(worker_id) as bench.before, _no_error_of_ours(failing):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield bench
            supervisor.drain()
            with anyio.fail_after(DEADLINE_S):
                await ended.wait()
        assert not marked(worker_id), "a process of a runner, or a template, is left"
    for step in store.steps.values():
        assert sum(state in TERMINAL for state in step.history) <= 1, step.history


def _runner_pool(
    entry: Entry,
    settings: Settings,
    metrics: Metrics,
    mark: str,
    imports: str,
    *,
    groups: ControlGroups | None,
    places: ModelPlaces,
    slots: int,
) -> RunnerPool:
    next_marker = marker_series(mark)

    def spawn() -> SpawnedProcess:
        template = partial(runner_entry.template, runner=entry, imports=imports)
        environment = {"CUDA_VISIBLE_DEVICES": ""}
        process = SpawnedProcess(template, marker=next_marker(), environment=environment)
        if groups is not None:
            groups.adopt(process.pid)
        return process

    templates = Templates(
        spawn,
        next_marker,
        metrics,
        warm_bytes=1 << 30 if settings.warm_bytes is None else settings.warm_bytes,
        warm_s=settings.warm_s,
        places=places,
    )
    forked = FORKED_KINDS[settings.runner_start]
    return RunnerPool(
        entry,
        next_marker,
        metrics,
        standby=settings.standby,
        templates=templates if forked else None,
        forked=forked,
        groups=groups,
        places=places,
        slots=slots,
    )


@contextmanager
def _worker_process(worker_id: UUID) -> Iterator[set[psutil.Process]]:
    """Make this process what a worker is while the block lasts; end what a failed test leaves."""
    resource_tracker.ensure_running()
    before, trees_before = _children(), set(trees)
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    adopt_orphans()
    try:
        with (
            patch.multiple("supervisor.slots.reconciler", **SLOTS),
            patch.multiple(result, **BUSY),
        ):
            yield before
        left = {process for process in _newcomers(before) if _lives(process)}
        assert not left, f"the supervisor left {left}"
    finally:
        sys.modules["__main__"] = main  # spawn imports it again in every child: ours is all pytest
        for process in _newcomers(before).union(marked(worker_id)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for root in trees.keys() - trees_before:  # or it would kill the next test's children
            del trees[root]
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextmanager
def _no_error_of_ours(expected: bool) -> Iterator[None]:
    """An event that the table has no row for, or a driver that fails, is reported and survived."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                said.append(f"{record.getMessage()}: {record.exc_info[1]}")

    ours, listener = logging.getLogger("supervisor"), Listener()
    ours.addHandler(listener)
    try:
        yield
        assert bool(said) == expected, said
    finally:
        ours.removeHandler(listener)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _newcomers(before: set[psutil.Process]) -> set[psutil.Process]:
    """What descends from this process since then. A server of the session may start its own."""
    servers = set[psutil.Process]().union(
        *(each.children(recursive=True) for each in before if _lives(each))
    )
    return _children() - before - servers


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def serve(
    test: Callable[[Bench], Awaitable[None]],
    entry: Entry = runners.main,
    *,
    begun: bool = True,
    **options: Any,
) -> None:
    """Run a test against a supervisor that has `begun`, unless it never will."""

    async def main() -> None:
        async with serving(entry, **options) as bench:
            if begun:
                await bench.begun()
            await test(bench)

    anyio.run(main)


def metric(bench: Bench, name: str, **labels: str) -> float | None:
    return bench.metrics.registry.get_sample_value(name, labels)
