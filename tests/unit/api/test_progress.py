"""The progress view: monotone per item and in sum, over steps and items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.support.stored_events import NOW, stored_event

from api.schemas.responses import ProgressOut
from api.streaming.progress import progress_of, stages
from shared.db.events import Event
from shared.db.jobs import Job, Step
from shared.states import Reason, Status, StepState


def job(status: Status = Status.RUNNING, count: int = 2) -> Job:
    return Job(
        id=uuid4(),
        type="generate",
        user="default",
        priority="normal",
        status=status,
        reason=Reason.COMPLETED if status is Status.SUCCEEDED else None,
        error=None,
        count=count,
        completed=0,
        event_seq=1,
        created_at=NOW,
        updated_at=NOW,
        finished_at=None,
        cancel_requested_at=None,
        tags={},
    )


def step(name: str = "generate", state: StepState = StepState.RUNNING) -> Step:
    return Step(id=uuid4(), name=name, type=name, state=state, reason=None, attempt=1)


def event(seq: int, code: str, **payload: Any) -> Event:
    return stored_event(seq, code, payload)


def view(
    job: Job,
    steps: list[Step],
    *,
    finished: Mapping[UUID, set[int]] | None = None,
    reached: Mapping[tuple[UUID, int], float] | None = None,
    started: Event | None = None,
    last: Event | None = None,
) -> ProgressOut:
    return progress_of(
        job, steps, finished=finished or {}, reached=reached or {}, started=started, last=last
    )


def items(
    steps: list[Step],
    finished: dict[UUID, set[int]] | None = None,
    reached: dict[tuple[UUID, int], float] | None = None,
) -> list[float]:
    shown = view(job(), steps, finished=finished or {}, reached=reached or {})
    assert [item.item_index for item in shown.items] == [0, 1]
    return [item.progress for item in shown.items]


def test_a_queued_job_has_items_and_no_progress() -> None:
    shown = view(job(Status.QUEUED), [step(state=StepState.QUEUED)])
    assert (shown.progress, shown.stage) == (0.0, "queue")
    assert [item.progress for item in shown.items] == [0.0, 0.0]


def test_an_item_with_an_artifact_is_whole_whatever_was_reported() -> None:
    only = step()
    assert items([only], {only.id: {0}}, {(only.id, 0): 0.3, (only.id, 1): 0.4}) == [1.0, 0.4]


def test_the_items_of_a_step_that_succeeded_are_whole_when_its_record_is_gone() -> None:
    first, second = step(state=StepState.SUCCEEDED), step("upscale")
    assert items([first]) == [1.0, 1.0]
    assert items([first, second], reached={(second.id, 1): 0.5}) == [0.5, 0.75]


def test_each_step_of_a_chain_counts_the_same_for_an_item() -> None:
    first, second = step(), step("upscale")
    assert items([first, second], {first.id: {0, 1}}, {(second.id, 0): 0.5}) == [0.75, 0.5]


def test_the_aggregate_is_the_workers_own_figure() -> None:
    last = event(3, "progress", progress=0.42, stage="sampling")
    shown = view(job(), [step()], started=event(2, "step.start"), last=last)
    assert (shown.progress, shown.stage) == (0.42, "sampling")


def test_a_succeeded_job_is_whole_even_if_its_last_event_was_pruned() -> None:
    assert view(job(Status.SUCCEEDED), [step()]).progress == 1.0


STARTED, TOLD = event(2, "step.start"), event(3, "progress", progress=0.5, stage="upload")
S = StepState


@pytest.mark.parametrize(
    ("states", "started", "last", "stage"),
    [
        ([S.QUEUED, S.PENDING], None, None, "queue"),
        ([S.LEASED, S.PENDING], None, None, "queue"),
        ([S.RUNNING, S.PENDING], STARTED, None, "load"),
        ([S.RUNNING, S.PENDING], STARTED, TOLD, "upload"),
        ([S.PUBLISHING, S.PENDING], STARTED, TOLD, "upload"),
        ([S.SUCCEEDED, S.QUEUED], STARTED, TOLD, "queue"),
        ([S.SUCCEEDED, S.RUNNING], event(9, "step.start"), TOLD, "load"),
        ([S.QUEUED, S.PENDING], STARTED, TOLD, "queue"),  # another try
        ([S.RUNNING, S.PENDING], event(9, "step.start"), TOLD, "load"),
    ],
)
def test_the_stage_is_that_of_the_step_whose_turn_it_is(
    states: list[StepState], started: Event | None, last: Event | None, stage: str
) -> None:
    steps = [step(name, state) for name, state in zip(("generate", "upscale"), states, strict=True)]
    assert view(job(), steps, started=started, last=last).stage == stage


def test_a_job_that_has_ended_is_at_no_stage() -> None:
    ended = [step(state=StepState.FAILED)]
    assert view(job(Status.FAILED), ended, started=STARTED, last=TOLD).stage is None


STAGE_NAMES = ["queue", "load", "sampling", "decode", "upload"]


@pytest.mark.parametrize("names", [["generate"], ["generate", "upscale"]])
def test_the_weights_of_all_stages_sum_to_one(names: list[str]) -> None:
    weights = stages([step(name) for name in names])
    assert sum(each.weight for each in weights) == pytest.approx(1.0)
    assert [each.step for each in weights] == [name for name in names for _ in range(5)]
    assert [each.name for each in weights] == STAGE_NAMES * len(names)


def test_a_step_of_another_release_has_one_stage_and_hides_no_other() -> None:
    """Of a newer one, while both run; its job is shown by this one too."""
    known, unknown = step("generate"), step("animate")
    shown = stages([known, unknown])
    assert [each.name for each in shown if each.step == "animate"] == ["queue", "run"]
    assert sum(each.weight for each in shown) == pytest.approx(1.0)
