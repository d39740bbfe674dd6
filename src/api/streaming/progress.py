"""The answer of `GET …/progress`, from what is recorded. Pure.

An item of a job with several steps counts each step equally. The job's figure is the worker's own,
which never goes back. An item's figure is the highest that was reported for it. Reports of a step
that has succeeded may be pruned, and are not needed: all its items count as done.
"""

from collections.abc import Mapping, Sequence
from uuid import UUID

from api.schemas.responses import ItemProgress, ProgressOut, StageWeight
from shared.db.events import Event
from shared.db.jobs import Job, Step
from shared.db.stored_json import mapping, progress_in
from shared.progress import STAGES, UNKNOWN
from shared.states import Status

QUEUE = "queue"
LOAD = "load"


def progress_of(
    job: Job,
    steps: Sequence[Step],
    *,
    finished: Mapping[UUID, set[int]],
    reached: Mapping[tuple[UUID, int], float],
    started: Event | None,
    last: Event | None,
) -> ProgressOut:
    """A job's progress.

    `finished` items have an artifact, `reached` is (step, item) -> 0..1; `started` and `last` are
    the newest `step.start` and `progress` events.
    """
    payload = None if last is None else last.payload
    return ProgressOut(
        progress=1.0 if job.status is Status.SUCCEEDED else progress_in(payload),
        status=job.status,
        stage=_stage(job, steps, started, last),
        items=[
            ItemProgress(item_index=index, progress=_item(index, steps, finished, reached))
            for index in range(job.count)
        ],
        stages=stages(steps),
    )


def stages(steps: Sequence[Step]) -> list[StageWeight]:
    """The documented weights, divided equally among the steps of a chain.

    Each step first waits for a slot. That is a stage of weight 0: how long it takes is unknown, and
    a number that stands still at 10 % says less than one that stands still at 0.
    """
    return [
        StageWeight(step=step.name, name=name, weight=round(weight / len(steps), 6))
        for step in steps
        for name, weight in ((QUEUE, 0.0), *STAGES.get(step.type, UNKNOWN))
    ]


def _stage(
    job: Job, steps: Sequence[Step], started: Event | None, last: Event | None
) -> str | None:
    """What the current step does. An event of the step before it, or of an earlier attempt, does
    not say that."""
    if job.ended:
        return None
    if not any(step.status is Status.RUNNING for step in steps):
        return QUEUE  # the first one, or the next one of a chain
    if last is None or (started is not None and last.seq < started.seq):
        return LOAD  # its process has begun and reported nothing yet
    stage = mapping(last.payload).get("stage")
    return stage if isinstance(stage, str) else None


def _item(
    index: int,
    steps: Sequence[Step],
    finished: Mapping[UUID, set[int]],
    reached: Mapping[tuple[UUID, int], float],
) -> float:
    def of_step(step: Step) -> float:
        if step.status is Status.SUCCEEDED or index in finished.get(step.id, ()):
            return 1.0
        return min(1.0, max(0.0, reached.get((step.id, index), 0.0)))

    return round(sum(of_step(step) for step in steps) / len(steps), 6)
