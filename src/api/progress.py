"""What `GET …/progress` says, from what is recorded. Pure.

An item of a job with several steps counts each step equally. The aggregate is the worker's own
figure, which never goes back; items are the highest that was ever reported of them. What a step
that succeeded has reported may be gone from the record by now, and does not matter any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from api.responses import ItemProgress, ProgressOut, StageWeight
from shared.db.jobs import Job, Step
from shared.progress import STAGES
from shared.states import Status

QUEUE = "queue"


def view(
    job: Job,
    steps: Sequence[Step],
    *,
    finished: Mapping[UUID, set[int]],
    reached: Mapping[tuple[UUID, int], float],
    last: Mapping[str, Any] | None,
) -> ProgressOut:
    """`finished` items have an artifact, `reached` is (step, item) -> 0..1, `last` the payload."""
    whole = 1.0 if job.status is Status.SUCCEEDED else float((last or {}).get("progress") or 0.0)
    return ProgressOut(
        progress=min(1.0, max(0.0, whole)),
        status=job.status,
        stage=QUEUE if job.status is Status.QUEUED else (last or {}).get("stage"),
        items=[
            ItemProgress(item_index=index, progress=_item(index, steps, finished, reached))
            for index in range(job.count)
        ],
        stages=stages(steps),
    )


def stages(steps: Sequence[Step]) -> list[StageWeight]:
    """The documented weights, shared out equally among the steps of a chain.

    Each step waits for a slot first. That is a stage, and counts nothing: nobody can tell how long
    it takes, and a number that stands still at 10 % says less than one that stands still at 0.
    """
    return [
        StageWeight(step=step.name, name=name, weight=round(weight / len(steps), 6))
        for step in steps
        for name, weight in ((QUEUE, 0.0), *STAGES[step.type])
    ]


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
