"""A day of an installation, simulated: jobs come, slots take them, and forecasts are compared.

Everything is drawn from a seed. Jobs come more often at noon than at night. Durations are
lognormal, as measured ones are, and drift over the day. There is one user and one
priority, so the order of the claim is the oldest step first.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from random import Random
from uuid import UUID

from api.waiting.forecast import Forecast, Span
from shared.db.run_times import KEPT, Kind, RunTimes
from shared.db.waiting import HEAD, Line, LineStep
from shared.db.workers import Slot, Worker

DAY_S = 24 * 3600.0
GB = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A checkpoint on a preset: steps with it need so much memory and take so long, as a rule."""

    id: UUID
    vram_bytes: int
    start_s: float
    median_s: float  # for a work of 1
    sigma: float  # of the logarithm
    share: float  # of all jobs


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """What the day is like. `load` is the share of the slots' time that jobs ask for."""

    models: Sequence[Model]
    slots: Sequence[int]  # capacity of each, one to a worker
    load: float
    works: Sequence[float] = (1.0,)
    sigma_of_drift: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was said when a job came, and when it started; both in seconds from then."""

    said: Span | None
    position: int
    started_s: float


@dataclass(slots=True)
class _Installation:
    day: Day
    random: Random
    now: float = 0.0
    waiting: list[LineStep] = field(default_factory=list)
    came_at: dict[UUID, float] = field(default_factory=dict)
    claimed_at: dict[UUID, float] = field(default_factory=dict)
    running: dict[UUID, LineStep] = field(default_factory=dict)  # by worker
    samples: dict[Kind, list[tuple[float, float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def workers(self) -> list[Worker]:
        models = {model.id: model.id.hex * 2 for model in self.day.models}
        return [
            Worker(
                id=UUID(int=number + 1),
                host="host",
                version="1",
                queues=("default",),
                slots=[
                    Slot(
                        id="0",
                        device="cuda",
                        device_class="gpu",
                        capacity_bytes=capacity,
                        state="free",
                    )
                ],
                models=models,
            )
            for number, capacity in enumerate(self.day.slots)
        ]

    def line(self) -> Line:
        running = [
            replace(step, worker_id=worker, held_s=self.now - self.claimed_at[step.id])
            for worker, step in self.running.items()
        ]
        return Line(
            waiting=self.waiting[:HEAD],
            cut={"cuda"} if len(self.waiting) > HEAD else set(),
            running=running,
            live=self.workers(),
            run_times={
                kind: RunTimes(
                    work=[sample[0] for sample in newest],
                    start_seconds=[sample[1] for sample in newest],
                    seconds=[sample[2] for sample in newest],
                )
                for kind, newest in self.samples.items()
            },
        )


def simulate(day: Day, seed: int, *, look_at_every: int = 5) -> list[Outcome]:
    """Each job that is looked at when it comes, once it has started."""
    random = Random(seed)
    here = _Installation(day, random)
    said: dict[UUID, tuple[Span | None, int]] = {}
    outcomes: list[Outcome] = []
    ends: list[tuple[float, int, UUID]] = []  # when, a tie-breaker, worker
    facts: dict[UUID, tuple[float, float]] = {}  # step -> seconds to GO, seconds in all
    arrivals = _arrivals(day, random)
    upcoming = next(arrivals, None)
    number = 0
    while upcoming is not None or ends:
        if ends and (upcoming is None or ends[0][0] <= upcoming[0]):
            here.now, _, worker = heappop(ends)
            step = here.running.pop(worker)
            start_s, seconds = facts.pop(step.id)
            newest = here.samples[step.kind]
            newest.insert(0, (step.work, start_s, seconds))
            del newest[KEPT:]
        else:
            assert upcoming is not None
            here.now, model, work = upcoming
            upcoming = next(arrivals, None)
            number += 1
            step = _step(number, model, work)
            here.waiting.append(step)
            here.came_at[step.id] = here.now
            if number % look_at_every == 0:
                place = Forecast(here.line()).place(step)
                said[step.id] = (place.starts_in_s, place.position)
        for worker, step in _claims(here):
            model = next(m for m in day.models if m.id == step.model_id)
            start_s, seconds = _duration(here, model, step.work)
            facts[step.id] = (start_s, seconds)
            heappush(ends, (here.now + seconds, number, worker))
            if step.id in said:
                span, position = said.pop(step.id)
                started_s = here.now + start_s - here.came_at[step.id]
                outcomes.append(Outcome(span, position, started_s))
    return outcomes


def _claims(here: _Installation) -> Iterator[tuple[UUID, LineStep]]:
    for number, capacity in enumerate(here.day.slots):
        worker = UUID(int=number + 1)
        if worker in here.running:
            continue
        step = next((s for s in here.waiting if s.vram_bytes <= capacity), None)
        if step is not None:
            here.waiting.remove(step)
            here.running[worker] = step
            here.claimed_at[step.id] = here.now
            yield worker, step


def _arrivals(day: Day, random: Random) -> Iterator[tuple[float, Model, float]]:
    mean_work = sum(day.works) / len(day.works)
    mean_s = sum(
        m.share * (m.start_s + m.median_s * mean_work * math.exp(m.sigma**2 / 2))
        for m in day.models
    )
    rate = day.load * len(day.slots) / mean_s
    now = 0.0
    while True:
        now += random.expovariate(1.5 * rate)
        if now >= DAY_S:
            return
        if random.random() < (1 - 0.5 * math.cos(2 * math.pi * now / DAY_S)) / 1.5:
            (model,) = random.choices(day.models, [m.share for m in day.models])
            yield now, model, random.choice(day.works)


def _duration(here: _Installation, model: Model, work: float) -> tuple[float, float]:
    drift = math.exp(here.day.sigma_of_drift * math.sin(6 * math.pi * here.now / DAY_S))
    start_s = model.start_s * here.random.lognormvariate(0, 0.1)
    run_s = model.median_s * work * drift * here.random.lognormvariate(0, model.sigma)
    return start_s, start_s + run_s


def _step(number: int, model: Model, work: float) -> LineStep:
    return LineStep(
        id=UUID(int=number),
        job_id=UUID(int=number),
        user="ada",
        device="cuda",
        priority="normal",
        vram_bytes=model.vram_bytes,
        model_id=model.id,
        kind=Kind(type="generate", checkpoint_sha256=model.id.hex * 2, preset="gpu@1"),
        work=work,
        timeout_s=600.0,
        due_in_s=0.0,
    )
