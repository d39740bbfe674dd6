"""The templates of a worker: one that has the imports, and one for each model that is warm.

    plain template   spawned; made again, after growing pauses, whenever it is gone
    model template   forked from it; holds one model on the host; made for what is due next

They save time, and nothing depends on them: a caller that gets no runner here spawns one. What they
hold is bounded by bytes, the least recently used goes first, and by idleness.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from shared.protocol.template_messages import HostModelSpec
from shared.retry import backoff
from supervisor.devices.cgroup import free_bytes
from supervisor.metrics import Metrics
from supervisor.processes.child import ChildProcess
from supervisor.processes.forked import ForkedProcess
from supervisor.templates.model_template import ModelTemplate, WantedModel
from supervisor.templates.places import ModelPlaces
from supervisor.templates.template import (
    FailureReason,
    Template,
    TemplateFailed,
    TemplateState,
    failure_of,
)

log = logging.getLogger(__name__)

# The imports take 4 to 8 CPU seconds. A step that has waited so long is still spawned in time
# (`Timings.ready_timeout_s`).
START_WITHIN_S = 60.0
_RETRY_FIRST_S, _RETRY_MOST_S = 1.0, 300.0
_EXPIRE_EVERY_S = 1.0
# A model that was used so lately stays, and another one is not made warm in its place: two models
# that take turns where there is room for one would else be loaded at each step.
STAY_S = 30.0


def _pauses() -> Iterator[float]:
    return backoff(first_s=_RETRY_FIRST_S, most_s=_RETRY_MOST_S)


@dataclass(frozen=True, kw_only=True, slots=True)
class TemplateStatus:
    """A template as it is shown. `spec` is None for the one that holds no model."""

    pid: int | None  # None until it is forked
    state: TemplateState
    spec: HostModelSpec | None = None
    size_bytes: int = 0


@dataclass(kw_only=True, slots=True)
class _Failures:
    """Of one model: when its template may be made again."""

    pauses: Iterator[float] = field(default_factory=_pauses)
    retry_at: float = 0.0


class Templates:
    """`start` it in the supervisor's task group; `close` it before that ends."""

    def __init__(
        self,
        spawn: Callable[[], ChildProcess],
        next_marker: Callable[[], str],
        metrics: Metrics,
        *,
        warm_bytes: int,
        warm_s: float,
        places: ModelPlaces,
    ) -> None:
        """`spawn` starts the plain template; `warm_bytes` is for all models together.

        `places` of models are those that a template can read, if they were there at its start.
        """
        self._spawn = spawn
        self._next_marker = next_marker
        self._metrics = metrics
        self._most_bytes = warm_bytes
        self._idle_s = warm_s
        self._places = places
        self._plain_places: object = None
        self._plain: Template | None = None
        self._renewing = False  # it is ended by us, to make another one
        self._plain_settled = anyio.Event()  # it is ready, or this start has failed
        self._plain_closed = anyio.Event()
        self._models: dict[HostModelSpec, ModelTemplate] = {}
        self._failures: dict[HostModelSpec, _Failures] = {}
        self._tasks: TaskGroup | None = None
        metrics.init_template_failures(FailureReason)
        self._show()
        self.on_ready: Callable[[], None] = lambda: None  # one more model is warm
        self.on_gone: Callable[[HostModelSpec], None] = lambda _spec: None
        self.reserved_bytes: Callable[[], int] = lambda: 0  # of this host, for steps that run

    def start(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        tasks.start_soon(self._keep_plain)
        tasks.start_soon(self._expire)

    async def close(self) -> None:
        """Kill every template, and wait until all are gone."""
        self._tasks = None
        models = list(self._models.values())
        for model in models:
            self._give_up(model)
        if self._plain is not None:
            self._plain.kill()
            await self._plain_closed.wait()
        await _wait_closed(models)

    # What is warm ---------------------------------------------------------------------------------

    @property
    def status(self) -> list[TemplateStatus]:
        """Every template, also one that is not ready yet."""
        plain, models = self._plain, self._models.values()
        status = [] if plain is None else [TemplateStatus(pid=plain.pid, state=plain.state)]
        return status + [
            TemplateStatus(
                pid=model.pid, state=model.state, spec=model.spec, size_bytes=model.size_bytes
            )
            for model in models
        ]

    @property
    def _warm_bytes(self) -> int:
        return sum(model.size_bytes for model in self._models.values())

    def held_bytes(self, spec: HostModelSpec | None) -> int | None:
        """What a runner with this model shares of its template's own memory; None when the model
        is not warm."""
        model = None if spec is None else self._models.get(spec)
        if model is None or model.state is not TemplateState.READY:
            return None
        return model.own_bytes

    async def drop_outdated(self, spec: HostModelSpec) -> None:
        """Give a model up whose forks could not read what is on the disk now."""
        model = self._models.get(spec)
        if model is None or model.state is not TemplateState.READY:
            return
        try:
            current = await model.is_current()
        except TemplateFailed as failure:
            self._report(_name(spec), failure)
            current = False
        if not current:
            log.info("%s goes: the models on the disk have changed", _name(spec))
            self._give_up(model)

    def want(self, wanted: WantedModel) -> None:
        """Have this model made warm, in the background."""
        if (model := self._models.get(wanted.spec)) is not None:
            model.used_at = anyio.current_time()
        elif self._tasks is not None and self._may_load(wanted) and self._has_room(wanted):
            model = self._models[wanted.spec] = ModelTemplate(wanted)
            self._tasks.start_soon(self._keep_warm, model)
            self._show()

    async def make_room(self, needed_bytes: int, *, keep: HostModelSpec | None) -> bool:
        """Give models up until so many bytes are free; False when there was none.

        Those that still load go first. `keep`, once loaded, stays: the step shares its memory.
        """
        models = [
            model
            for model in self._models.values()
            if model.spec != keep or model.state is not TemplateState.READY
        ]
        given_up: list[ModelTemplate] = []
        for model in sorted(models, key=lambda each: (each.own_bytes > 0, each.used_at)):
            if sum(each.own_bytes for each in given_up) >= needed_bytes:
                break
            log.info("%s goes: a step needs its memory", _name(model.spec))
            self._give_up(model)
            given_up.append(model)
        await _wait_closed(given_up)
        return bool(given_up)

    def _may_load(self, wanted: WantedModel) -> bool:
        if self._plain is None or self._plain.state is not TemplateState.READY:
            return False
        failures = self._failures.get(wanted.spec)
        return failures is None or anyio.current_time() >= failures.retry_at

    def _free_bytes(self) -> int:
        """What no step and no other load is about to take."""
        loading = sum(
            model.size_bytes
            for model in self._models.values()
            if model.state is not TemplateState.READY
        )
        try:
            return free_bytes() - self.reserved_bytes() - loading
        except OSError as error:
            log.warning("the host's memory cannot be read: %s", error)
            return -1

    def _has_room(self, wanted: WantedModel) -> bool:
        """Whether there is room for one more, after models went that were not used for a while."""
        if wanted.size_bytes > min(self._most_bytes, self._free_bytes()):
            return False
        excess = self._warm_bytes + wanted.size_bytes - self._most_bytes
        going: list[ModelTemplate] = []
        for model in sorted(self._models.values(), key=lambda each: each.used_at):
            if sum(each.size_bytes for each in going) >= excess:
                break
            if anyio.current_time() - model.used_at < STAY_S:
                return False
            going.append(model)
        for model in going:
            log.info("%s goes: DF_WARM_BYTES has no room for one more", _name(model.spec))
            self._give_up(model)
        return True

    # Forking --------------------------------------------------------------------------------------

    async def fork_runner(
        self, wanted: HostModelSpec | None, environment: Mapping[str, str], places: object
    ) -> tuple[ForkedProcess, HostModelSpec | None] | None:
        """A runner, with its model if that is warm; None when there is no template to fork, or it
        could not read models in all `places`.

        Raises `OSError` when the host has no descriptor left.
        """
        if self._plain is not None and self._plain_places != places:
            self._renew()
            return None
        if wanted is not None and self.held_bytes(wanted) is not None:
            model = self._models[wanted]
            try:
                runner = await model.fork_runner(self._next_marker(), environment)
                self._metrics.template_forks.inc()
                return runner, wanted
            except TemplateFailed as failure:
                self._report_refusal(_name(wanted), failure)
        await self._plain_settled.wait()
        if self._plain is None:
            return None
        try:
            runner = await self._plain.fork("runner", self._next_marker(), environment)
        except TemplateFailed as failure:
            self._report_refusal("the template", failure)
            return None
        self._metrics.template_forks.inc()
        return runner, None

    def _renew(self) -> None:
        """End all templates: what they fork could not read a model that a new link leads to."""
        log.info("the templates go: the links among the models have changed")
        for model in list(self._models.values()):
            self._give_up(model)
        if self._plain is not None:
            self._renewing = True
            self._plain.kill()

    async def _fork_template(self) -> Template:
        if self._plain is None:
            raise TemplateFailed(FailureReason.DIED, "there is no template to fork it from")
        return Template(await self._plain.fork("template", self._next_marker(), {}))

    # The tasks that own a template ----------------------------------------------------------------

    async def _keep_plain(self) -> None:
        pauses = _pauses()
        while True:
            self._plain_places = await self._places.now()
            if self._tasks is None:
                self._plain_settled.set()  # there will be none
                return
            self._plain_settled, self._plain_closed = anyio.Event(), anyio.Event()
            try:
                self._plain = Template(self._spawn())
                await self._run_plain(self._plain)
            except (TemplateFailed, OSError) as error:
                if self._plain_settled.is_set():  # it was ready, for a while
                    pauses = _pauses()
                if not self._renewing:
                    self._report("the template", failure_of(error))
            finally:
                self._renewing = False
                await self._close_plain()
            await anyio.sleep(next(pauses))

    async def _run_plain(self, plain: Template) -> None:
        self._show()
        await plain.prepare(START_WITHIN_S)
        log.info("the template is ready: process %d", plain.pid)
        self._plain_settled.set()
        self._show()
        self.on_ready()
        await plain.fail_at_end()

    async def _close_plain(self) -> None:
        plain, self._plain = self._plain, None
        self._plain_settled.set()
        try:
            if plain is not None:
                await plain.close()
        finally:
            self._plain_closed.set()
        self._show()

    async def _keep_warm(self, model: ModelTemplate) -> None:
        try:
            await model.run(self._fork_template, lambda: self._on_warm(model))
        except (TemplateFailed, OSError) as error:
            self._report(_name(model.spec), failure_of(error))
            failures = self._failures.setdefault(model.spec, _Failures())
            failures.retry_at = anyio.current_time() + next(failures.pauses)
        finally:
            self._forget(model)
            self._show()

    def _on_warm(self, model: ModelTemplate) -> None:
        log.info("%s is ready: %d bytes", _name(model.spec), model.size_bytes)
        if self._warm_bytes > self._most_bytes:  # it takes more than was expected
            raise TemplateFailed(
                FailureReason.FAILED, f"{model.size_bytes} bytes are too many for DF_WARM_BYTES"
            )
        self._failures.pop(model.spec, None)
        self._show()
        self.on_ready()

    async def _expire(self) -> None:
        while True:
            await anyio.sleep(_EXPIRE_EVERY_S)
            self._show()
            for model in list(self._models.values()):
                if anyio.current_time() - model.used_at > self._idle_s:
                    log.info("%s goes: not used for %g s", _name(model.spec), self._idle_s)
                    self._give_up(model)

    def _give_up(self, model: ModelTemplate) -> None:
        self._forget(model)
        model.give_up()

    def _forget(self, model: ModelTemplate) -> None:
        if self._models.get(model.spec) is model:
            del self._models[model.spec]
            self.on_gone(model.spec)

    # What is shown --------------------------------------------------------------------------------

    def _report_refusal(self, name: str, failure: TemplateFailed) -> None:
        """Report a fork that failed, unless that ended the template: its task says it."""
        if failure.reason in (FailureReason.FAILED, FailureReason.UNAVAILABLE):
            self._report(name, failure)

    def _report(self, name: str, failure: TemplateFailed) -> None:
        if self._tasks is not None:
            log.warning("%s: %s", name, failure.message)
            self._metrics.template_failures.labels(reason=failure.reason).inc()

    def _show(self) -> None:
        states: Counter[str] = Counter(dict.fromkeys(TemplateState, 0))
        states.update(template.state for template in self.status)
        self._metrics.record_templates(states, self._warm_bytes)


def _name(spec: HostModelSpec) -> str:
    return f"the template of model {spec.model.name}@{spec.model.version}"


async def _wait_closed(models: Iterable[ModelTemplate]) -> None:
    for model in models:
        await model.closed.wait()
