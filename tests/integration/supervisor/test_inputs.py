"""How a step gets the pictures of the step before: by the worker, one at a time, checked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.support.harness import Bench, serve, until

from shared.events import Code
from shared.states import Reason, Status, StepState
from supervisor.execution import inputs

Test = Callable[[Bench], Awaitable[None]]


def states(bench: Bench, job: UUID) -> list[StepState]:
    return [step.state for step in bench.store.steps_of(job)]


def upscaled(bench: Bench, job: UUID) -> list[int]:
    """Items that the second step has stored."""
    _, second = bench.store.steps_of(job)
    return sorted(item for step, item in bench.job(job).artifacts if step == second.id)


def last_error(bench: Bench, job: UUID) -> dict[str, Any]:
    error = bench.job(job).error
    assert error is not None and error["code"] == Reason.ATTEMPTS_EXHAUSTED
    last_error: dict[str, Any] = error["details"]["last_error"]
    return last_error


def key_of(bench: Bench, job: UUID, item: int = 0) -> str:
    first, _ = bench.store.steps_of(job)
    return bench.job(job).artifacts[first.id, item].s3_key


def test_each_item_of_a_chain_is_handed_on_and_keeps_its_seed() -> None:
    async def test(bench: Bench) -> None:
        job = bench.chain("enlarges", count=3)
        await bench.ended(job)
        assert states(bench, job) == [StepState.SUCCEEDED] * 2
        enlarged = {item: a for (_, item), a in bench.job(job).artifacts.items() if a.width == 128}
        assert {item: a.seed for item, a in enlarged.items()} == {0: 7, 1: 8, 2: 9}
        assert all("/upscale/" in a.s3_key for a in enlarged.values())
        shown = [dict(e.payload or {})["progress"] for e in bench.events(job, Code.PROGRESS)]
        assert shown == sorted(shown)
        assert bench.spool_bytes == 0

    serve(test)


def test_a_second_try_of_the_second_step_keeps_what_it_has_and_asks_for_the_rest(
    tmp_path: Path,
) -> None:
    async def test(bench: Bench) -> None:
        job = bench.chain(f"enlarges_after 2 {tmp_path / 'crashed'}", count=3)
        await bench.ended(job)
        first, second = bench.store.steps_of(job)
        assert (first.attempt, second.attempt) == (1, 2)
        assert upscaled(bench, job) == [0, 1, 2]
        written = [e for e in bench.events(job, Code.ARTIFACT_WRITTEN) if e.step_id == second.id]
        assert sorted(e.item_index or 0 for e in written) == [0, 1, 2]

    serve(test)


@pytest.mark.parametrize("there", [None, b"another picture", b"x" * 5_000_000])
def test_an_input_that_is_gone_or_another_one_ends_the_job_and_says_which(
    there: bytes | None, tmp_path: Path
) -> None:
    async def test(bench: Bench) -> None:
        job = bench.chain(f"wants_when {tmp_path / 'go'}")
        await until(lambda: states(bench, job)[1] is StepState.RUNNING, "the second step runs")
        key = key_of(bench, job)
        if there is None:
            del bench.objects.objects[key]
        else:
            bench.objects.objects[key] = there
        (tmp_path / "go").touch()
        await bench.ended(job)
        assert states(bench, job) == [StepState.SUCCEEDED, StepState.FAILED]
        error = last_error(bench, job)
        assert error["code"] == Reason.INFRA_UNAVAILABLE
        assert (error["details"]["item_index"], error["details"]["s3_key"]) == (0, key)
        assert ("found_sha256" in error["details"]) == (there is not None)
        await bench.in_state("free")
        assert "SIGKILL" not in bench.signals(job)

    serve(test)


def test_a_store_that_comes_back_was_only_waited_for() -> None:
    async def test(bench: Bench) -> None:
        with bench.objects.faults.away("get"):
            job = bench.chain("enlarges")
            await until(lambda: bench.objects.faults.calls.count("get") == 2, "asked twice")
        await bench.ended(job)
        assert bench.store.steps_of(job)[1].attempt == 1
        assert bench.job(job).status is Status.SUCCEEDED

    serve(test)


def test_a_store_that_stays_away_gives_the_slot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "FETCH_TIMEOUT_S", 0.1)

    async def test(bench: Bench) -> None:
        with bench.objects.faults.away("get"):
            job = bench.chain("enlarges")
            await bench.ended(job)
        assert "object store was away" in last_error(bench, job)["message"]
        await bench.in_state("free")

    serve(test)


def test_a_spool_that_stays_full_gives_the_slot_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Room for an input is waited for no longer than the input itself."""
    monkeypatch.setattr(inputs, "FETCH_TIMEOUT_S", 0.1)

    async def test(bench: Bench) -> None:
        job = bench.chain("enlarges")
        await until(lambda: states(bench, job)[1] is StepState.LEASED, "the first step is done")
        async with bench.byte_budget.reserve(1 << 20):
            await until(lambda: bench.events(job, Code.RETRY), "it goes back to the queue")
            assert bench.payload(job, Code.RETRY)["reason"] == Reason.INFRA_UNAVAILABLE
            await bench.in_state("free")
        await bench.ended(job)
        assert bench.job(job).status is Status.SUCCEEDED

    serve(test, spool_bytes=1 << 20)


def test_a_runner_that_does_not_hear_that_nothing_will_come_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inputs, "FETCH_TIMEOUT_S", 0.1)

    async def test(bench: Bench) -> None:
        with bench.objects.faults.away("get"):
            job = bench.chain("wants_and_stays")
            await bench.ended(job)
        assert last_error(bench, job)["code"] == Reason.INFRA_UNAVAILABLE
        assert bench.signals(job)[0] == "SIGTERM"
        await bench.in_state("free")

    serve(test, max_attempts=1, exit_grace_s=0.2)


def test_a_runner_that_asks_for_two_at_once_is_no_runner_of_ours() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("get")
        job = bench.chain("wants_two_at_once", count=2)
        await bench.ended(job)
        hold.release()
        assert "on its way" in last_error(bench, job)["details"]["protocol"]

    serve(test, max_attempts=1)


# Cancel -------------------------------------------------------------------------------------------


def test_a_cancel_while_an_input_is_fetched_ends_the_step_politely() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("get")
        job = bench.chain("enlarges")
        await until(hold.reached.is_set, "the input is being fetched")
        bench.store.request_cancel(job)
        await bench.ended(job)
        assert states(bench, job) == [StepState.SUCCEEDED, StepState.CANCELLED]
        assert bench.job(job).status is Status.CANCELLED
        assert "SIGKILL" not in bench.signals(job)
        hold.release()

    serve(test)


def test_a_cancel_of_the_first_step_ends_the_second_before_it_begins() -> None:
    async def test(bench: Bench) -> None:
        job = bench.chain("enlarges", first="polite")
        await bench.running(job)
        bench.store.request_cancel(job)
        await bench.ended(job)
        assert states(bench, job) == [StepState.CANCELLED] * 2
        assert bench.store.steps_of(job)[1].epoch == 0

    serve(test)


def test_a_cancel_between_two_steps_leaves_the_pictures_of_the_first() -> None:
    async def test(bench: Bench) -> None:
        store_is_slow = bench.objects.faults.hold("put")
        job = bench.chain("enlarges")
        await until(lambda: states(bench, job)[0] is StepState.PUBLISHING, "publishing")
        hold = bench.store.faults.hold("claim")
        store_is_slow.release()
        await until(lambda: states(bench, job)[1] is StepState.QUEUED, "between the steps")
        bench.store.request_cancel(job)
        hold.release()
        await bench.ended(job)
        assert states(bench, job) == [StepState.SUCCEEDED, StepState.CANCELLED]
        assert len(bench.job(job).artifacts) == 1

    serve(test)


def test_a_failure_of_the_first_step_ends_the_second_before_it_begins() -> None:
    async def test(bench: Bench) -> None:
        job = bench.chain("enlarges", first="fails oom")
        await bench.ended(job)
        assert states(bench, job) == [StepState.FAILED, StepState.CANCELLED]
        assert bench.job(job).reason is Reason.OOM

    serve(test)
