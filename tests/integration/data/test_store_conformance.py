"""One suite for both stores of steps: PostgreSQL's, and the in-memory twin that other tests use."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import anyio
import pytest
from tests.support.memory_store import Work
from tests.support.stores import (
    AGAIN,
    FAILURE,
    SUCCESS,
    TRACEPARENT,
    WORKER,
    InMemory,
    InPostgres,
    Subject,
    claim,
    claim_request,
    claimed_job,
    ended,
    note,
    picture,
)

from shared.db.engine import Database
from shared.events import Code
from shared.states import Priority, Reason, StepState
from shared.step_store import (
    PASSED,
    AttemptResult,
    CancelRequested,
    Claim,
    OrphanedStep,
    Rescue,
    Stale,
    StepStore,
)

Test = Callable[[Subject], Awaitable[None]]
Run = Callable[[Test], None]


@pytest.fixture(params=["memory", "postgresql"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test against one of the two stores."""
    url = request.getfixturevalue("database_url") if request.param == "postgresql" else None

    @asynccontextmanager
    async def opened() -> AsyncIterator[Subject]:
        if url is None:
            yield InMemory()
            return
        database = Database(url, application="conformance")
        try:
            yield InPostgres(database, url)
        finally:
            await database.close()

    def run_test(test: Test) -> None:
        async def main() -> None:
            async with opened() as subject:
                await test(subject)

        anyio.run(main)

    return run_test


# Claim --------------------------------------------------------------------------------------------


def test_a_claim_carries_the_step_and_raises_its_epoch(run: Run) -> None:
    async def test(subject: Subject) -> None:
        work = Work(params={"prompt": "x"}, timeout_s=5.0, vram_bytes=10)
        job, taken = await claimed_job(subject, work, count=3)
        (step,) = await subject.steps(job)
        assert (taken.job_id, taken.step_id) == (job, step["id"])
        assert (taken.params, taken.timeout_s, taken.vram_bytes) == ({"prompt": "x"}, 5.0, 10)
        assert (taken.count, taken.epoch, taken.attempt, taken.losses) == (3, 1, 0, 0)
        assert (taken.correlation_id, taken.traceparent) == ("correlation", TRACEPARENT)
        assert taken.model is not None
        assert (taken.model.id, taken.model.kind) == (subject.model_id, "sd")
        assert taken.inputs == ()
        assert (taken.position, taken.chain_length, taken.done_items) == (0, 1, ())
        assert (taken.cancel_requested, taken.vram_waited_s, taken.progress) == (False, 0.0, 0.0)
        assert (step["state"], step["epoch"], step["lease_owner"]) == ("leased", 1, WORKER)

    run(test)


def test_a_step_is_claimed_once(run: Run) -> None:
    async def test(subject: Subject) -> None:
        await claimed_job(subject)
        assert await subject.store.claim(claim_request(subject)) is None

    run(test)


def test_the_oldest_step_is_claimed_first(run: Run) -> None:
    async def test(subject: Subject) -> None:
        jobs = [await subject.create(Work()) for _ in range(3)]
        assert [(await claim(subject)).job_id for _ in jobs] == jobs

    run(test)


async def claim_in_turn(subject: Subject, count: int, **changes: Any) -> list[Any]:
    """The `number` of each step that is claimed, one after the other, none of which ends."""
    return [(await claim(subject, **changes)).params["number"] for _ in range(count)]


def test_a_higher_priority_is_claimed_first_and_within_it_the_older(run: Run) -> None:
    async def test(subject: Subject) -> None:
        for number, priority in enumerate(["low", "normal", "high", "low", "normal", "high"]):
            work = Work(params={"number": number}, priority=Priority(priority))
            await subject.create(work)
        assert await claim_in_turn(subject, 6) == [2, 5, 1, 4, 0, 3]

    run(test)


def test_a_priority_that_waited_too_long_goes_first_if_the_worker_lets_it(run: Run) -> None:
    async def test(subject: Subject) -> None:
        for number, priority in enumerate(["normal", "low", "low", "high", "high"]):
            await subject.create(Work(params={"number": number}, priority=Priority(priority)))
        assert await claim_in_turn(subject, 1, max_passed_s=0.0, overdue=False) == [3]
        taken = await claim(subject, max_passed_s=0.0)
        assert (taken.params["number"], taken.overdue) == (0, True)
        assert await claim_in_turn(subject, 3, max_passed_s=0.0) == [1, 2, 4]

    run(test)


def test_who_has_used_less_goes_first_and_not_who_came_first(run: Run) -> None:
    async def test(subject: Subject) -> None:
        await subject.create(Work(user="ada"))
        await subject.store.finish(await started(subject), SUCCESS)
        for number, user in enumerate(["ada", "ada", "bob"]):
            await subject.create(Work(params={"number": number}, user=user))
        assert (await subject.store.due_next(claim_request(subject), 1))[0].params["number"] == 2
        assert await claim_in_turn(subject, 1) == [2]

    run(test)


async def started(subject: Subject) -> Claim:
    taken = await claim(subject)
    await subject.store.commit_running(taken, [])
    return taken


def test_a_worker_that_is_kept_for_something_claims_nothing_else(run: Run) -> None:
    async def test(subject: Subject) -> None:
        for number, (user, priority) in enumerate(
            [("ada", "low"), ("bob", "high"), ("ada", "high")]
        ):
            work = Work(params={"number": number}, user=user, priority=Priority(priority))
            await subject.create(work)
        kept: dict[str, Any] = {"users": ("ada",), "priorities": ("high",)}
        assert await claim_in_turn(subject, 1, **kept) == [2]
        assert await subject.store.claim(claim_request(subject, **kept)) is None
        assert await claim_in_turn(subject, 1, priorities=("low",)) == [0]
        assert await claim_in_turn(subject, 1, users=("bob",)) == [1]

    run(test)


def test_a_loaded_model_passes_a_few_older_steps_and_each_a_few_times(run: Run) -> None:
    async def test(subject: Subject) -> None:
        other = await subject.add_model()
        models = (subject.model_id, other)
        for number in range(PASSED + 2):
            await subject.create(Work(params={"number": f"cold {number}"}))
        for number in range(PASSED + 2):
            await subject.create(Work(params={"number": number}, model_id=other))
        # The loaded one has too many older ones before it, until two of them were claimed.
        assert await claim_in_turn(subject, 2, models=models, warm=(other,)) == ["cold 0", "cold 1"]
        passing = await claim_in_turn(subject, PASSED + 1, models=models, warm=(other,))
        assert passing == [*range(PASSED), "cold 2"]

    run(test)


def test_what_is_due_next_is_what_is_claimed_next(run: Run) -> None:
    async def test(subject: Subject) -> None:
        for number in range(3):
            work = Work(params={"n": number}, preset={"name": "p"}, needs_model=number != 1)
            await subject.create(work)
        request = claim_request(subject)
        assert await subject.store.due_next(request, 0) == []
        for left in (3, 2, 1):
            upcoming = await subject.store.due_next(request, 5)
            taken = await claim(subject)
            assert len(upcoming) == left
            first = upcoming[0]
            assert (first.type, first.preset, first.params, first.model) == (
                (taken.type, taken.preset, taken.params, taken.model)
            )
        assert await subject.store.due_next(request, 5) == []

    run(test)


@pytest.mark.parametrize(
    ("work", "changes"),
    [
        (Work(device="cuda"), {}),
        (Work(vram_bytes=1001), {}),
        (Work(), {"models": ()}),
        (Work(), {"models": (uuid4(),)}),
    ],
)
def test_a_step_that_does_not_fit_the_offer_is_left(
    run: Run, work: Work, changes: dict[str, Any]
) -> None:
    async def test(subject: Subject) -> None:
        await subject.create(work)
        assert await subject.store.claim(claim_request(subject, **changes)) is None
        assert await subject.store.due_next(claim_request(subject, **changes), 5) == []

    run(test)


def test_a_retry_is_not_claimed_before_its_delay_is_over(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        assert await subject.store.finish(taken, replace(AGAIN, delay_s=60.0)) == taken.step_id
        assert await subject.store.claim(claim_request(subject)) is None
        assert (await subject.job(job))["status"] == "queued"

    run(test)


def test_a_second_claim_knows_what_the_first_has_done(run: Run) -> None:
    async def test(subject: Subject) -> None:
        _, first = await claimed_job(subject, count=3)
        await subject.store.commit_running(first, [])
        shown = replace(note(Code.PROGRESS), payload={"progress": 0.25})
        await subject.store.record(first, None, [shown])
        for item in (2, 0):
            assert await subject.store.add_artifact(first, picture(item), note())
        await subject.store.finish(first, replace(AGAIN, attempt=1, losses=2))
        second = await claim(subject)
        assert (second.epoch, second.attempt, second.losses) == (2, 1, 2)
        assert (second.done_items, second.progress) == ((0, 2), 0.25)

    run(test)


def test_time_spent_waiting_for_memory_adds_up_over_claims_until_it_runs(run: Run) -> None:
    async def test(subject: Subject) -> None:
        _, first = await claimed_job(subject)
        await subject.store.finish(first, replace(AGAIN, vram_wait=True))
        second = await claim(subject)
        await subject.store.finish(second, replace(AGAIN, vram_wait=True))
        third = await claim(subject)
        assert 0 < second.vram_waited_s < third.vram_waited_s
        await subject.store.commit_running(third, [])
        await subject.store.finish(third, AGAIN)
        assert (await claim(subject)).vram_waited_s == 0

    run(test)


def test_a_claim_is_recorded_with_it_and_a_wait_for_memory_once(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        assert await subject.codes(job) == ["job.created", "step.claimed"]
        for _ in range(2):
            await subject.store.finish(taken, replace(AGAIN, vram_wait=True))
            taken = await claim(subject)
        assert (await subject.codes(job)).count("step.claimed") == 1
        await subject.store.finish(taken, AGAIN)
        await claim(subject)
        assert (await subject.codes(job)).count("step.claimed") == 2

    run(test)


# Owned --------------------------------------------------------------------------------------------


def test_running_is_committed_once_with_its_events(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        for _ in range(2):  # the second is our own, whose answer was lost
            await subject.store.commit_running(taken, [note(Code.STEP_START)])
        (step,) = await subject.steps(job)
        assert (step["state"], step["attempt"]) == ("running", 1)
        assert (await subject.codes(job)).count("step.start") == 1
        assert (await subject.job(job))["status"] == "running"

    run(test)


def test_a_step_that_is_being_stopped_does_not_begin_to_run(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        await subject.store.record(taken, StepState.STOPPING, [])
        await subject.store.commit_running(taken, [])
        (step,) = await subject.steps(job)
        assert (step["state"], step["attempt"]) == ("stopping", 0)

    run(test)


def test_events_are_kept_in_their_order(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        await subject.store.record(taken, None, [note(Code.SIGNAL_SENT), note(Code.UNKILLABLE)])
        await subject.store.record(taken, StepState.STOPPING, [note(Code.GPU_RECLAIMED)])
        assert await subject.codes(job) == [
            "job.created", "step.claimed", "signal.sent", "unkillable", "gpu.reclaimed"
        ]  # fmt: skip
        assert (await subject.steps(job))[0]["state"] == "stopping"

    run(test)


def test_an_item_has_one_artifact(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        add = subject.store.add_artifact
        assert await add(taken, picture(key="first"), note(Code.ARTIFACT_WRITTEN))
        assert await add(taken, picture(key="first"), note(Code.ARTIFACT_WRITTEN))  # lost answer
        assert not await add(taken, picture(key="second"), note(Code.ARTIFACT_WRITTEN))
        assert (await subject.codes(job)).count("artifact.written") == 1

    run(test)


@pytest.mark.parametrize(
    "write",
    [
        lambda store, taken: store.commit_running(taken, [note()]),
        lambda store, taken: store.record(taken, StepState.STOPPING, [note()]),
        lambda store, taken: store.renew(taken, 60.0),
        lambda store, taken: store.add_artifact(taken, picture(), note()),
        lambda store, taken: store.finish(taken, SUCCESS),
    ],
    ids=["commit_running", "record", "renew", "add_artifact", "finish"],
)
@pytest.mark.parametrize("how", ["another epoch", "another owner", "not owned", "ended"])
def test_a_stale_owner_writes_nothing(
    run: Run, how: str, write: Callable[[StepStore, Claim], Awaitable[None]]
) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        if how == "another owner":  # of the same epoch: a failover lost the first claim
            taken = replace(taken, lease_owner=uuid4())
        elif how == "ended":
            await subject.store.finish(taken, FAILURE)
        else:
            await subject.store.finish(taken, AGAIN)
        if how == "another epoch":
            await claim(subject)
        before = await subject.steps(job), await subject.codes(job)
        with pytest.raises(Stale):
            await write(subject.store, taken)
        assert (await subject.steps(job), await subject.codes(job)) == before

    run(test)


# The end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [SUCCESS, FAILURE, ended(StepState.CANCELLED, Reason.CANCELLED)])
def test_a_verdict_ends_the_step_and_its_job(run: Run, end: AttemptResult) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        assert await subject.store.finish(taken, replace(end, events=[note()])) is None
        (step,) = await subject.steps(job)
        assert (step["state"], step["reason"], step["error"]) == (end.state, end.reason, end.error)
        assert step["lease_owner"] is None
        assert await subject.job(job) == {"status": end.state, "reason": end.reason}
        codes = await subject.codes(job)
        assert codes[:3] == ["job.created", "step.claimed", "runner.log"]
        assert codes.count("job.finish") == 1

    run(test)


@pytest.mark.parametrize("end", [SUCCESS, FAILURE, AGAIN], ids=lambda end: str(end.state))
def test_an_end_that_is_written_again_counts_once(run: Run, end: AttemptResult) -> None:
    """Its answer was lost. Who waits for it must learn that it is written, not that it is stale."""

    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        end_with_event = replace(end, events=[note()])
        first = await subject.store.finish(taken, end_with_event)
        before = await subject.steps(job), await subject.codes(job)
        assert await subject.store.finish(taken, end_with_event) == first
        assert (await subject.steps(job), await subject.codes(job)) == before

    run(test)


def test_a_retry_that_a_cancel_overtook_and_that_is_written_again_is_refused(run: Run) -> None:
    """Its answer was lost, and the cancel ended what was back in the queue."""

    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        await subject.store.finish(taken, AGAIN)
        await subject.cancel(job)
        before = await subject.codes(job)
        with pytest.raises(CancelRequested):
            await subject.store.finish(taken, AGAIN)
        for _ in range(2):
            cancelled = ended(StepState.CANCELLED, Reason.CANCELLED)
            assert await subject.store.finish(taken, cancelled) is None
        assert await subject.codes(job) == before

    run(test)


def test_a_cancelled_end_that_is_written_again_counts_once(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        await subject.cancel(job)
        cancelled = ended(StepState.CANCELLED, Reason.CANCELLED)
        assert await subject.store.finish(taken, cancelled) is None
        before = await subject.codes(job)
        assert await subject.store.finish(taken, cancelled) is None
        assert await subject.codes(job) == before

    run(test)


def test_what_ended_a_try_stays_known_until_another_one_ends(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        crash = {"code": "runner_crashed", "message": "it ended", "details": {}}
        await subject.store.finish(taken, replace(AGAIN, error=crash))
        await subject.store.finish(await claim(subject), replace(AGAIN, error=None))
        (step,) = await subject.steps(job)
        assert step["error"] == crash
        await subject.store.finish(await claim(subject), SUCCESS)
        (step,) = await subject.steps(job)
        assert step["error"] is None

    run(test)


def test_success_queues_the_next_step_of_a_chain(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject, Work(), Work(name="second"))
        first, second = await subject.steps(job)
        assert (first["state"], second["state"]) == ("leased", "pending")
        made = [picture(item) for item in (1, 0)]
        for each in made:
            await subject.store.add_artifact(taken, each, note(Code.ARTIFACT_WRITTEN))
        for _ in range(2):  # the second is our own, whose answer was lost
            assert await subject.store.finish(taken, SUCCESS) == second["id"]
        following = await claim(subject)
        assert 0 <= following.queued_s < 60
        assert (following.step_id, following.position) == (second["id"], 1)
        assert following.chain_length == 2
        assert following.inputs == (made[1], made[0])
        await subject.store.finish(following, SUCCESS)
        assert (await subject.job(job))["status"] == "succeeded"

    run(test)


def test_a_step_without_a_model_is_claimed_by_a_worker_without_models(run: Run) -> None:
    async def test(subject: Subject) -> None:
        await subject.create(Work())
        job = await subject.create(Work(needs_model=False))
        taken = await claim(subject, models=())
        assert (taken.job_id, taken.model) == (job, None)
        assert await subject.store.claim(claim_request(subject, models=())) is None

    run(test)


def test_failure_cancels_the_rest_of_a_chain_and_decides_the_job(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject, Work(), Work(name="second"))
        assert await subject.store.finish(taken, FAILURE) is None
        assert [step["state"] for step in await subject.steps(job)] == ["failed", "cancelled"]
        assert await subject.job(job) == {"status": "failed", "reason": "oom"}

    run(test)


# Cancel -------------------------------------------------------------------------------------------


def test_a_cancel_ends_what_nobody_owns(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job = await subject.create(Work(), Work(name="second"))
        await subject.cancel(job)
        assert [step["state"] for step in await subject.steps(job)] == ["cancelled"] * 2
        assert await subject.job(job) == {"status": "cancelled", "reason": "cancelled"}

    run(test)


def test_a_cancel_of_an_owned_step_is_told_to_its_owner_alone(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        assert await subject.store.requested_cancels(WORKER) == set()
        await subject.cancel(job)
        assert await subject.store.requested_cancels(WORKER) == {taken.step_id}
        assert await subject.store.requested_cancels(uuid4()) == set()
        assert (await subject.steps(job))[0]["state"] == "leased"
        await subject.store.finish(taken, ended(StepState.CANCELLED, Reason.CANCELLED))
        assert await subject.store.requested_cancels(WORKER) == set()

    run(test)


def test_a_cancel_that_the_owner_did_not_see_beats_its_retry_but_not_its_success(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, taken = await claimed_job(subject)
        await subject.cancel(job)
        before = await subject.steps(job), await subject.codes(job)
        with pytest.raises(CancelRequested):
            await subject.store.finish(taken, replace(AGAIN, events=[note(Code.RETRY)]))
        assert (await subject.steps(job), await subject.codes(job)) == before
        cancelled = ended(StepState.CANCELLED, Reason.CANCELLED, events=[note(Code.STEP_FINISH)])
        assert await subject.store.finish(taken, cancelled) is None
        assert await subject.job(job) == {"status": "cancelled", "reason": "cancelled"}
        codes = await subject.codes(job)
        assert (codes.count("step.finish"), codes.count("job.finish")) == (1, 1)
        assert "retry" not in codes
        other, taken = await claimed_job(subject)
        await subject.cancel(other)
        await subject.store.finish(taken, SUCCESS)
        assert await subject.job(other) == {"status": "succeeded", "reason": "completed"}

    run(test)


# A claim without an answer -----------------------------------------------------------------------


def test_a_claim_that_its_worker_never_heard_of_is_put_back_uncharged(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, unheard = await claimed_job(subject)
        _, heard = await claimed_job(subject)
        _, of_another = await subject.create(Work()), await claim(subject, worker_id=uuid4())
        known = {(heard.step_id, heard.epoch)}
        assert await subject.store.release_unacknowledged(WORKER, known) == 1
        assert await subject.store.release_unacknowledged(WORKER, known) == 0
        (step,) = await subject.steps(job)
        assert (step["state"], step["attempt"], step["losses"]) == ("queued", 0, 0)
        with pytest.raises(Stale):
            await subject.store.renew(unheard, 60.0)
        for kept in (heard, of_another):
            await subject.store.renew(kept, 60.0)
        again = await claim(subject)
        assert (again.step_id, again.epoch) == (unheard.step_id, unheard.epoch + 2)

    run(test)


def test_a_cancel_of_a_step_that_its_worker_never_heard_of_ends_the_job(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job, unheard = await claimed_job(subject, Work(), Work(name="upscale"))
        other, _ = await claimed_job(subject)
        await subject.cancel(job)
        assert await subject.store.release_unacknowledged(WORKER, set()) == 2
        assert await subject.job(job) == {"status": "cancelled", "reason": "cancelled"}
        for step in await subject.steps(job):
            assert (step["state"], step["reason"]) == ("cancelled", "cancelled")
        assert (await subject.codes(job)).count("job.finish") == 1
        with pytest.raises(Stale):
            await subject.store.renew(unheard, 60.0)
        assert (await subject.job(other))["status"] == "queued"

    run(test)


def test_an_earlier_claim_of_a_step_does_not_speak_for_a_later_one(run: Run) -> None:
    async def test(subject: Subject) -> None:
        _, first = await claimed_job(subject)
        await subject.store.finish(first, AGAIN)
        unheard = await claim(subject)
        assert unheard.step_id == first.step_id
        assert (
            await subject.store.release_unacknowledged(WORKER, {(first.step_id, first.epoch)}) == 1
        )

    run(test)


def test_what_was_started_is_nobodys_to_put_back(run: Run) -> None:
    async def test(subject: Subject) -> None:
        _, taken = await claimed_job(subject)
        await subject.store.commit_running(taken, [])
        assert await subject.store.release_unacknowledged(WORKER, set()) == 0

    run(test)


# Sweeping -----------------------------------------------------------------------------------------


async def swept(sweep: Callable[[], Awaitable[Rescue | None]]) -> Rescue:
    """Wait for a lease or a patience of milliseconds to be over."""
    deadline = time.monotonic() + 20
    while (found := await sweep()) is None:
        assert time.monotonic() < deadline
    return found


def test_an_expired_lease_is_taken_over_and_its_owner_is_stale(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job = await subject.create(Work())
        lost = await claim(subject, lease_s=0.01)
        await subject.store.commit_running(lost, [])
        result = replace(AGAIN, losses=1, events=[note(Code.LEASE_EXPIRED)])

        def decide(_: OrphanedStep) -> AttemptResult:
            return result

        orphan = OrphanedStep(
            id=lost.step_id,
            job_id=job,
            name="generate",
            state=StepState.RUNNING,
            epoch=1,
            attempt=1,
            losses=0,
            cancel_requested=False,
            correlation_id="correlation",
            traceparent=TRACEPARENT,
        )
        assert await swept(lambda: subject.store.rescue_expired(decide)) == (orphan, result)
        (step,) = await subject.steps(job)
        assert (step["state"], step["epoch"], step["losses"]) == ("queued", 2, 1)
        assert await subject.store.rescue_expired(decide) is None
        with pytest.raises(Stale):
            await subject.store.renew(lost, 60.0)

    run(test)


def test_a_renewed_lease_is_not_swept(run: Run) -> None:
    async def test(subject: Subject) -> None:
        await subject.create(Work())
        taken = await claim(subject, lease_s=0.01)
        await subject.store.renew(taken, 60.0)
        assert await subject.store.rescue_expired(lambda _: AGAIN) is None

    run(test)


def test_a_sweep_ends_a_cancelled_step_of_a_lost_owner(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job = await subject.create(Work())
        await claim(subject, lease_s=0.01)
        await subject.cancel(job)
        end = ended(StepState.CANCELLED, Reason.CANCELLED)

        def decide(abandoned: OrphanedStep) -> AttemptResult:
            assert abandoned.cancel_requested
            return end

        await swept(lambda: subject.store.rescue_expired(decide))
        assert (await subject.job(job))["status"] == "cancelled"

    run(test)


def test_a_step_that_nobody_claims_is_ended_after_its_time_alone(run: Run) -> None:
    async def test(subject: Subject) -> None:
        job = await subject.create(Work())
        end = ended(StepState.FAILED, Reason.TIMEOUT, attempt=0)
        assert await subject.store.rescue_unclaimed(lambda _: end, 3600.0) is None
        await swept(lambda: subject.store.rescue_unclaimed(lambda _: end, 0.01))
        assert await subject.job(job) == {"status": "failed", "reason": "timeout"}

    run(test)
