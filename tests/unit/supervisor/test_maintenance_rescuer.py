"""What becomes of steps whose owner is gone, and of steps that no worker claims."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.support.claims import claim_step
from tests.support.harness import settings_for_tests, timings_for_tests
from tests.support.memory_store import MemoryStepStore, StoredStep, Work

from shared.errors import InfraUnavailable
from shared.events import Code
from shared.states import OWNED, Reason, StepState
from supervisor.maintenance import rescuer as rescuer_module
from supervisor.maintenance.rescuer import Rescuer
from supervisor.metrics import Metrics

LEASE_S = 60.0
SETTINGS = settings_for_tests(max_attempts=3, max_losses=2, queue_timeout_s=100.0)
TIMINGS = timings_for_tests()


async def abandoned(store: MemoryStepStore, state: StepState = StepState.RUNNING) -> StoredStep:
    """A step whose owner renewed its lease too long ago."""
    job = store.create(Work())
    claim = await claim_step(store, lease_s=LEASE_S)
    await store.record(claim, state, [])
    (step,) = store.steps_of(job)
    return step


def play(test: Callable[[MemoryStepStore, Rescuer, Metrics], Awaitable[None]]) -> None:
    async def main() -> None:
        store, metrics = MemoryStepStore(), Metrics()
        await test(store, Rescuer(store, SETTINGS, metrics, timings=TIMINGS), metrics)

    anyio.run(main)


def rescued(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("dreamforge_swept_total")


def counted(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"dreamforge_{name}_total", labels)


@pytest.mark.parametrize("state", sorted(OWNED))
def test_a_step_of_a_lost_owner_goes_back_with_a_loss(state: StepState) -> None:
    async def test(store: MemoryStepStore, rescuer: Rescuer, metrics: Metrics) -> None:
        step = await abandoned(store, state)
        assert await rescuer.rescue() == 0
        store.pass_time(LEASE_S + 1)
        before = store.now()
        assert await rescuer.rescue() == 1
        assert (step.state, step.losses, step.epoch) == (StepState.QUEUED, 1, 2)
        assert before <= step.run_at <= store.now() + TIMINGS.retry_base_s
        (event,) = [e for e in store.jobs[step.job_id].events if e.code == Code.LEASE_EXPIRED]
        assert event.level == "WARNING"
        payload = dict(event.payload or {})
        assert (payload["losses"], payload["last_error"]) == (1, step.error)
        assert payload["last_error"]["code"] == Reason.LEASE_LOST
        assert rescued(metrics) == 1
        assert counted(metrics, "retries", reason="lease_lost") == 1

    play(test)


def test_a_step_that_was_lost_too_often_is_given_up() -> None:
    async def test(store: MemoryStepStore, rescuer: Rescuer, metrics: Metrics) -> None:
        step = await abandoned(store)
        step.losses = 1
        store.pass_time(LEASE_S + 1)
        await rescuer.rescue()
        assert (step.state, step.reason) == (StepState.FAILED, Reason.ATTEMPTS_EXHAUSTED)
        details: dict[str, Any] = (step.error or {})["details"]
        assert details["losses"] == 2
        assert details["last_error"]["code"] == Reason.LEASE_LOST

    play(test)


def test_a_step_that_was_to_be_cancelled_is() -> None:
    async def test(store: MemoryStepStore, rescuer: Rescuer, metrics: Metrics) -> None:
        step = await abandoned(store)
        store.request_cancel(step.job_id)
        store.pass_time(LEASE_S + 1)
        await rescuer.rescue()
        assert (step.state, step.reason) == (StepState.CANCELLED, Reason.CANCELLED)
        assert (step.error or {})["code"] == "cancelled"

    play(test)


def test_a_step_that_nobody_claims_fails_and_says_what_to_check() -> None:
    async def test(store: MemoryStepStore, rescuer: Rescuer, metrics: Metrics) -> None:
        (step,) = store.steps_of(store.create(Work(queue="unserved")))
        store.pass_time(SETTINGS.queue_timeout_s - 1)
        assert await rescuer.rescue() == 0
        store.pass_time(2)
        assert await rescuer.rescue() == 1
        assert (step.state, step.reason) == (StepState.FAILED, Reason.TIMEOUT)
        assert "queue, device and model" in (step.error or {})["message"]

    play(test)


def test_one_pass_takes_all_there_are_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescuer_module, "STEPS_PER_PASS", 3)

    async def test(store: MemoryStepStore, rescuer: Rescuer, metrics: Metrics) -> None:
        for _ in range(4):
            await abandoned(store)
        store.pass_time(LEASE_S + 1)
        assert await rescuer.rescue() == 3
        assert await rescuer.rescue() == 1

    play(test)


def test_what_was_swept_before_the_database_went_away_is_counted() -> None:
    async def test(store: MemoryStepStore, rescuer: Rescuer, metrics: Metrics) -> None:
        step = await abandoned(store)
        step.losses = 1
        store.pass_time(LEASE_S + 1)
        with store.faults.away("rescue_unclaimed"), pytest.raises(InfraUnavailable):
            await rescuer.rescue()
        assert step.reason is Reason.ATTEMPTS_EXHAUSTED
        assert rescued(metrics) == 1
        assert counted(metrics, "dead_letters", kind="job") == 1
        assert counted(metrics, "steps", reason="attempts_exhausted") == 1

    play(test)


def test_a_database_that_is_away_is_the_callers_news() -> None:
    async def test(store: MemoryStepStore, rescuer: Rescuer, metrics: Metrics) -> None:
        with store.faults.away("rescue_expired"), pytest.raises(InfraUnavailable):
            await rescuer.rescue()

    play(test)
