"""Where a step's runner comes from: one that waits, a fork of a template, or a fresh process.

A waiting runner is started ahead on its slot's device, with the imports and, where a template has
it, the model that is expected next. It serves one step and no other, so isolation is the same; only
the imports and the load are over already. It holds no context on the device: that begins with GO.
"""

import itertools
import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from uuid import UUID

import anyio
from anyio.abc import TaskGroup

from shared.linux.sandbox import NO_SANDBOX
from shared.protocol.template_messages import HostModelSpec
from supervisor.devices.device import Device
from supervisor.metrics import Metrics
from supervisor.processes.child import ChildProcess, Entry
from supervisor.processes.control_groups import ControlGroups
from supervisor.processes.spawned import SpawnedProcess
from supervisor.processes.tree import is_stopped
from supervisor.templates.model_template import WantedModel
from supervisor.templates.places import ModelPlaces
from supervisor.templates.template import TemplateState
from supervisor.templates.templates import Templates, TemplateStatus

log = logging.getLogger(__name__)

# The device kinds whose runners are forked, by `DF_RUNNER_START`. Not GPUs by default: no card has
# shown yet that CUDA is sound in a fork of a template (docs/gpu-evidence.md).
FORKED_KINDS: dict[str, frozenset[str]] = {
    "auto": frozenset({"cpu"}),
    "template": frozenset({"cpu", "cuda"}),
    "spawn": frozenset(),
}

# SIGKILL needs no cooperation; a waiting runner that is there after this waits on hardware.
CLOSE_S = 10.0


@dataclass(frozen=True, slots=True)
class _Started:
    """A runner that has no step yet, and the model that it has inherited."""

    process: ChildProcess
    places: object  # of models, when it started: it can read no others
    model: HostModelSpec | None = None


@dataclass(kw_only=True, slots=True)
class _Place:
    """One device: the runner that waits for it, and what its next step is likely to need."""

    device: Device
    starting: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: _Started | None = None
    filling: bool = False  # a runner that will wait is being started
    likely: WantedModel | None = None  # of the next step that is due, else of the last one
    due: bool = False  # a step for this device waits in the queue


class RunnerPool:
    """Starts the runners of one worker. Only the supervisor's thread uses it."""

    def __init__(
        self,
        entry: Entry,
        next_marker: Callable[[], str],
        metrics: Metrics,
        *,
        standby: bool,
        templates: Templates | None = None,
        forked: Container[str] = (),
        contain: Callable[[str], Mapping[str, str]] = lambda _kind: NO_SANDBOX,
        places: ModelPlaces,
        groups: ControlGroups | None = None,
        slots: int = 1,
    ) -> None:
        """The runners of the device kinds in `forked` come from `templates`; others are spawned.

        `contain` says with which variables a runner of a kind is contained, and `places` where the
        models are that it may read. With `groups` each step gets a control group, and its share of
        their memory, by the number of `slots`.
        """
        self._entry = entry
        self._next_marker = next_marker
        self._metrics = metrics
        self._standby = standby
        self._templates = templates
        self._forked = forked
        self._contain = contain
        self._places_of_models = places
        self._groups = groups
        self._slots = slots
        self._places: dict[str, _Place] = {}
        self._discarded: set[anyio.Event] = set()  # set when a discarded runner is gone
        self._tasks: TaskGroup | None = None

    def start(self, tasks: TaskGroup, reserved_bytes: Callable[[], int]) -> None:
        """From now on templates are kept, and runners wait.

        `reserved_bytes` of the host's memory belong to steps that run on the CPU.
        """
        self._tasks = tasks
        if self._templates is not None:
            self._templates.on_ready = self._prewarm_idle
            self._templates.on_gone = self._drop_waiting
            self._templates.reserved_bytes = reserved_bytes
            self._templates.start(tasks)

    async def close(self) -> None:
        """Kill every template and every waiting runner. They hold no device memory, so no SIGTERM
        comes first."""
        self._tasks = None
        async with anyio.create_task_group() as tasks:
            if self._templates is not None:
                tasks.start_soon(self._templates.close)
            for place in self._places.values():
                tasks.start_soon(self._empty, place)

    # For a step -----------------------------------------------------------------------------------

    async def acquire(
        self, device: Device, wanted: WantedModel | None, *, need_bytes: int = 0
    ) -> ChildProcess:
        """A runner for a step that needs this model, which it has inherited if it is warm.

        It is in its step's control group, where there are any: `need_bytes` is what the step needs
        of the device. Raises `OSError` when the host has no room for a process.
        """
        place = self._place(device)
        spec = None if wanted is None else wanted.spec
        if not place.due:
            place.likely = wanted
        if wanted is not None and wanted.with_loras and self._templates is not None:
            await self._templates.drop_outdated(wanted.spec)
        async with place.starting:
            places = await self._places_of_models.now()
            started = self._take_waiting(place, spec, places)
            started = started or await self._start(device, spec, places)
        if spec is not None and device.kind in self._forked:
            self._metrics.record_warm_start(hit=started.model == spec)
        self._bound(started.process, need_bytes if device.kind == "cpu" else 0)
        return started.process

    def _bound(self, process: ChildProcess, host_bytes: int) -> None:
        if self._groups is not None:
            process.tree.group = self._groups.open_step(
                process.pid, need_bytes=host_bytes, slots=self._slots
            )

    @property
    def templates(self) -> list[TemplateStatus]:
        """Every template of this worker."""
        return [] if self._templates is None else self._templates.status

    @property
    def warm_models(self) -> tuple[UUID, ...]:
        """Models that a runner can be forked with now."""
        return tuple(
            UUID(template.spec.model.id)
            for template in self.templates
            if template.spec is not None and template.state is TemplateState.READY
        )

    def held_bytes(self, wanted: WantedModel | None) -> int:
        """What of a model lies in the host's memory already, for its next runner to share."""
        if self._templates is None or wanted is None:
            return 0
        return self._templates.held_bytes(wanted.spec) or 0

    async def make_room(self, needed_bytes: int, wanted: WantedModel | None) -> bool:
        """Give up what is warm, but not its own model, until a step has so many bytes more.

        False when nothing else was warm.
        """
        if self._templates is None:
            return False
        keep = None if wanted is None else wanted.spec
        made = await self._templates.make_room(needed_bytes, keep=keep)
        for killed in list(self._discarded):  # runners that held the same memory
            await killed.wait()
        return made

    # Ahead of a step ------------------------------------------------------------------------------

    def expect_nothing(self, device: Device) -> None:
        """The step that was due on this device has been claimed."""
        self._place(device).due = False

    def expect(self, device: Device, wanted: WantedModel | None) -> None:
        """A step is due next on this device: have its model made warm while the device is busy."""
        place = self._place(device)
        place.due, place.likely = True, wanted
        self._want(place)

    def is_due(self, device: Device) -> bool:
        """Whether a step for this device waits in the queue, as far as is known."""
        return self._place(device).due

    def prewarm(self, device: Device) -> None:
        """Have a runner wait for the next step of this device, which is free."""
        place = self._place(device)
        self._want(place)
        self._fill_soon(place)

    def prewarm_due(self, device: Device) -> None:
        """The same for a device that is busy, if its next step is due already."""
        if (place := self._place(device)).due:
            self._fill_soon(place)

    def _prewarm_idle(self) -> None:
        """A template is ready: runners that wait, or soon will, may have started without it."""
        for place in self._places.values():
            if place.waiting is not None or place.filling:
                self._fill_soon(place)

    def _want(self, place: _Place) -> None:
        if self._templates is not None and place.likely and place.device.kind in self._forked:
            self._templates.want(place.likely)

    def _fill_soon(self, place: _Place) -> None:
        if self._standby and self._tasks is not None:
            self._tasks.start_soon(self._fill, place)

    async def _empty(self, place: _Place) -> None:
        async with place.starting:  # what is being started ends up waiting
            waiting, place.waiting = place.waiting, None
        if waiting is not None:
            await _kill(waiting.process)

    async def _fill(self, place: _Place) -> None:
        async with place.starting:
            place.filling = True
            try:
                await self._have_one_wait(place)
            except OSError as error:  # out of processes or descriptors; the next step tries again
                log.warning("no runner waits for %s: %s", place.device.id, error)
            finally:
                place.filling = False

    async def _have_one_wait(self, place: _Place) -> None:
        places = await self._places_of_models.now()
        if self._tasks is None:
            return
        spec = None if place.likely is None else place.likely.spec
        place.waiting = self._take_waiting(place, spec, places)
        if place.waiting is not None:
            return
        place.waiting = started = await self._start(place.device, spec, places)
        if started.model is not None and not self._holds(started.model):
            self._drop_waiting(started.model)  # it went while the runner was forked from it

    # Runners without a step -----------------------------------------------------------------------

    def _place(self, device: Device) -> _Place:
        place = self._places.setdefault(device.id, _Place(device=device))
        place.device = device  # a device that was lost may come back with another size
        return place

    def _take_waiting(
        self, place: _Place, spec: HostModelSpec | None, places: object
    ) -> _Started | None:
        """The runner that waits here, unless it has ended, was stopped, has another model, which is
        all that it may read, or has none where a fork would have the right one."""
        waiting, place.waiting = place.waiting, None
        if waiting is None:
            return None
        if waiting.process.exitcode is not None:
            log.warning("a waiting runner has ended: exit code %s", waiting.process.exitcode)
        elif is_stopped(waiting.process.pid):  # its step would wait for it until its time is over
            log.warning("a waiting runner goes: a signal has stopped it")
        elif waiting.places != places:
            log.info("a waiting runner goes: the links among the models have changed")
        elif waiting.model == spec or (waiting.model is None and not self._holds(spec)):
            return waiting
        self._discard(waiting.process)
        return None

    def _holds(self, spec: HostModelSpec | None) -> bool:
        return self._templates is not None and self._templates.held_bytes(spec) is not None

    def _drop_waiting(self, spec: HostModelSpec) -> None:
        """A model is not warm any more: a runner that waits with it would keep its memory."""
        if self._tasks is None:  # `close` kills them all
            return
        for place in self._places.values():
            if place.waiting is not None and place.waiting.model == spec:
                waiting, place.waiting = place.waiting, None
                self._discard(waiting.process)

    def _discard(self, process: ChildProcess) -> None:
        if self._tasks is not None:
            killed = anyio.Event()
            self._discarded.add(killed)
            self._tasks.start_soon(self._kill_discarded, process, killed)

    async def _kill_discarded(self, process: ChildProcess, killed: anyio.Event) -> None:
        try:
            await _kill(process)
        finally:
            self._discarded.remove(killed)
            killed.set()

    async def _start(self, device: Device, spec: HostModelSpec | None, places: object) -> _Started:
        """`places` of models are those of a moment ago: what it reads them by is read later."""
        environment = {**device.environment, **self._contain(device.kind)}
        if self._templates is not None and device.kind in self._forked:
            try:
                forked = await self._templates.fork_runner(spec, environment, places)
            except OSError as error:  # a spawn needs less, or says the same
                log.warning("cannot fork a runner: %s", error)
                forked = None
            if forked is not None:
                return _Started(forked[0], places, forked[1])
        marker = self._next_marker()
        runner = SpawnedProcess(self._entry, marker=marker, environment=environment)
        if self._groups is not None:  # a fork is where its template is
            self._groups.adopt(runner.pid)
        return _Started(runner, places)


def marker_series(worker_mark: str) -> Callable[[], str]:
    """The markers of one worker's children: different, and of one length (`Fork.marker`)."""
    serial = itertools.count(1)
    return lambda: f"{worker_mark}:{next(serial):010d}"


async def _kill(process: ChildProcess) -> None:
    try:
        if not await process.kill_and_close(CLOSE_S):
            log.error("runner %d, which waited, does not die", process.pid)
            process.close()
    except OSError as error:  # /proc cannot be read; the worker's end kills what is left
        log.error("runner %d, which waited, cannot be looked for: %s", process.pid, error)
