"""A step whose database or object store is away. Real processes, in-memory parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.harness import SHORT_LEASE, Bench, metric, serve, until

from shared.events import Code
from shared.states import Reason, StepState

# The database is away -----------------------------------------------------------------------------


def test_no_runner_starts_to_work_before_its_row_says_so() -> None:
    async def test(bench: Bench) -> None:
        with bench.store.faults.away("commit_running"):
            job = bench.submit("quick")
            await until(lambda: "commit_running" in bench.store.faults.calls, "an attempt")
            assert "put" not in bench.objects.faults.calls
        assert (await bench.ended(job)).state is StepState.SUCCEEDED

    serve(test)


def test_a_start_that_the_database_does_not_take_is_not_the_runners_fault() -> None:
    async def test(bench: Bench) -> None:
        bench.store.faults.hold("commit_running")  # while it takes every renewal
        step = await bench.ended(bench.submit("quick"))
        assert (step.attempt, step.losses) == (0, 1)
        error = (step.error or {})["details"]["last_error"]
        assert error["code"] == Reason.INFRA_UNAVAILABLE
        assert "database" in error["message"]

    serve(test, max_losses=1, **SHORT_LEASE)


def test_the_time_to_get_ready_is_over_when_the_runner_is_ready() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.store.faults.hold("commit_running")
        job = bench.submit("quick")
        await hold.reached.wait()
        over = bench.store.now() + bench.timings.ready_timeout_s
        await until(lambda: bench.store.now() > over, "past the time to get ready")
        hold.release()
        step = await bench.ended(job)
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 0)

    serve(test, ready_timeout_s=3.0)


def test_events_wait_for_the_database_in_their_order(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit(f"waits_for {tmp_path / 'go'}")
        await bench.running(job)
        with bench.store.faults.away("record", "finish"):
            (tmp_path / "go").touch()
            await until(lambda: bench.store.faults.calls.count("finish") > 1, "verdict waits")
        await bench.ended(job)
        codes = [code for code in bench.codes(job) if code != Code.PROGRESS]
        assert codes == [
            "job.created", "step.claimed", "step.start", "gpu.mem", "artifact.written",
            "gpu.reclaimed", "gpu.mem", "step.finish", "job.finish",
        ]  # fmt: skip

    serve(test)


@pytest.mark.parametrize("call", ["commit_running", "add_artifact", "record", "finish", "renew"])
def test_a_commit_whose_answer_is_lost_counts_once(call: str) -> None:
    async def test(bench: Bench) -> None:
        bench.store.faults.lose_answer(call)
        job = bench.submit("quick", count=2)
        step = await bench.ended(job)
        await until(lambda: not bench.processes(), "the end")
        assert (step.state, step.attempt) == (StepState.SUCCEEDED, 1)
        facts = [code for code in bench.codes(job) if code != Code.PROGRESS]
        assert sorted(facts) == [
            "artifact.written", "artifact.written", "gpu.mem", "gpu.mem", "gpu.reclaimed",
            "job.created", "job.finish", "step.claimed", "step.finish", "step.start",
        ]  # fmt: skip
        keys = {artifact.s3_key for artifact in bench.job(job).artifacts.values()}
        assert keys == set(bench.objects.objects)
        assert len(keys) == 2

    serve(test, lease_renew_s=0.1)


def test_a_dead_letter_whose_answer_is_lost_is_counted_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.store.faults.lose_answer("finish")
        await bench.ended(bench.submit(f"crashes 9 {tmp_path / 'count'}"))
        await until(lambda: counted(bench, "dead_letters", kind="job") == 1, "it is counted")
        assert bench.store.faults.calls.count("finish") == 2

    serve(test, max_attempts=1)


def test_a_cancel_that_beats_a_retry_is_counted_as_one(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        hold = bench.store.faults.hold("finish")
        job = bench.submit(f"crashes 9 {tmp_path / 'count'}")
        await until(hold.reached.is_set, "the try has ended")
        bench.store.request_cancel(job)
        hold.release()
        assert (await bench.ended(job)).state is StepState.CANCELLED
        await until(lambda: counted(bench, "steps", reason="cancelled") == 1, "it is counted")
        assert counted(bench, "retries", reason="runner_crashed") == 0
        ended = {"status": "cancelled", "reason": "cancelled"}
        assert counted(bench, "jobs_finished", **ended) == 1
        assert bench.events(job, Code.RETRY) == []

    serve(test)


def test_a_chain_that_is_cancelled_behind_a_step_that_succeeded_is_a_cancelled_job() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.store.faults.hold("finish")
        job = bench.chain("enlarges")
        await until(hold.reached.is_set, "the first step has ended")
        bench.store.request_cancel(job)
        hold.release()
        await bench.ended(job)
        cancelled = {"status": "cancelled", "reason": "cancelled"}
        await until(lambda: counted(bench, "jobs_finished", **cancelled) == 1, "it is counted")
        assert counted(bench, "steps", reason="completed") == 1
        assert counted(bench, "jobs_finished", status="succeeded", reason="completed") == 0

    serve(test)


def test_a_job_is_counted_once_with_what_ended_it() -> None:
    async def test(bench: Bench) -> None:
        await bench.ended(bench.chain("enlarges"))
        await bench.ended(bench.submit("fails oom"))
        ends = (
            {"status": "succeeded", "reason": "completed"},
            {"status": "failed", "reason": "oom"},
        )
        await until(
            lambda: [counted(bench, "jobs_finished", **end) for end in ends] == [1, 1], "both"
        )
        cancelled = {"status": "cancelled", "reason": "cancelled"}
        assert counted(bench, "jobs_finished", **cancelled) == 0  # between the two steps

    serve(test)


def counted(bench: Bench, name: str, **labels: str) -> float | None:
    return metric(bench, f"dreamforge_{name}_total", **labels)


def test_a_claim_whose_answer_is_lost_is_put_back_at_once_and_uncharged() -> None:
    async def test(bench: Bench) -> None:
        bench.store.faults.lose_answer("claim")
        step = await bench.ended(bench.submit("quick"))
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 0)
        assert step.epoch == 3

    serve(test)


def test_what_is_driven_is_not_put_back_with_a_claim_that_was_lost(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        driven = bench.submit(f"waits_for {tmp_path / 'go'}")
        await bench.running(driven)
        bench.store.faults.lose_answer("claim")
        assert (await bench.ended(bench.submit("quick"))).state is StepState.SUCCEEDED
        (tmp_path / "go").touch()
        step = await bench.ended(driven)
        assert (step.state, step.epoch) == (StepState.SUCCEEDED, 1)

    serve(test, slots=2)


# The object store is away -------------------------------------------------------------------------


def test_an_upload_goes_on_without_holding_the_slot() -> None:
    async def test(bench: Bench) -> None:
        with bench.objects.faults.away("put"):
            job = bench.submit("quick")
            await bench.reaches(job, "publishing")
            await bench.in_state("free")
            assert bench.spool_bytes > 0
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        assert bench.spool_bytes == 0

    serve(test)


def test_images_that_never_reach_the_store_cost_a_loss() -> None:
    async def test(bench: Bench) -> None:
        with bench.objects.faults.away("put"):
            step = await bench.ended(bench.submit("quick"))
        assert (step.reason, step.losses) == (Reason.ATTEMPTS_EXHAUSTED, 1)
        last_error = (step.error or {})["details"]["last_error"]
        assert last_error["code"] == Reason.INFRA_UNAVAILABLE

    serve(test, publish_deadline_s=0.3, max_losses=1)


def test_a_store_that_refuses_costs_no_step_that_has_not_begun(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(bench: Bench) -> None:
        with bench.objects.faults.away("put"):
            first = bench.submit("quick")
            await until(lambda: bench.step(first).losses == 1, "its picture waits for too long")
            assert bench.pictures.refuses
            second = bench.submit("quick")
            calls = bench.store.faults.calls
            claims, puts = calls.count("claim"), bench.objects.faults.calls.count("put")
            await until(
                lambda: bench.objects.faults.calls.count("put") > puts + 5, "it is asked again"
            )
            assert calls.count("claim") == claims
            assert bench.step(second).history == [StepState.QUEUED]
        steps = [await bench.ended(first), await bench.ended(second)]
        assert [(step.state, step.losses) for step in steps] == [
            (StepState.SUCCEEDED, 1),
            (StepState.SUCCEEDED, 0),
        ]
        assert "claims no step" in caplog.text and "takes pictures again" in caplog.text

    caplog.set_level("INFO")
    serve(test, store_refuses_s=0.2, store_look_s=0.05, publish_deadline_s=1.0)


def test_a_full_spool_slows_the_runner_and_claims_nothing_new() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("put")
        job = bench.submit(f"big {300_000}", count=8)
        await until(lambda: bench.spool_full, lambda: bench.spool_bytes)
        other = bench.submit("quick")
        claims = bench.store.faults.calls.count("claim")
        sweeps = bench.store.faults.calls.count("rescue_expired")
        await until(
            lambda: bench.store.faults.calls.count("rescue_expired") > sweeps + 5, "some time"
        )
        assert bench.store.faults.calls.count("claim") == claims
        assert bench.step(job).state is StepState.RUNNING
        assert bench.spool_bytes == 900_000
        hold.release()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        assert (await bench.ended(other)).state is StepState.SUCCEEDED

    serve(test, spool_bytes=1 << 20, slots=2)


def test_a_runner_whose_time_ends_while_the_store_is_away_is_tried_again() -> None:
    """It waited for room, not for itself: that is no `timeout`, and the slot does not wait."""

    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("put")
        job = bench.submit(f"big {300_000}", count=6)
        await bench.reaches(job, "publishing")
        await bench.in_state("free")
        hold.release()
        step = await bench.ended(job)
        assert (step.state, step.attempt) == (StepState.SUCCEEDED, 2)
        assert bench.payload(job, Code.RETRY)["reason"] == Reason.INFRA_UNAVAILABLE
        assert len(bench.objects.objects) == 6

    serve(test, spool_bytes=1 << 20, timeout_s=1.0)


def test_a_result_behind_an_image_without_room_is_still_heard() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("put")
        job = bench.submit(f"big {900_000}", count=2)
        await bench.reaches(job, "publishing")
        await bench.in_state("free")
        hold.release()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        assert bench.signals(job) == []

    serve(test, spool_bytes=1 << 20, max_attempts=1)
