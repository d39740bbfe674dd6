"""The end of an execution: written once, logged once, counted once."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import anyio
import pytest
from tests.support.claims import claim_step
from tests.support.harness import settings_for_tests, timings_for_tests
from tests.support.memory_store import MemoryStepStore, Work

from shared.events import Code
from shared.states import Reason, StepState
from supervisor.devices.device import Device
from supervisor.execution.completer import write_verdict
from supervisor.execution.context import Execution, WorkerContext
from supervisor.lifecycle.step import Step
from supervisor.metrics import Metrics
from supervisor.slots.table import Slot

CPU = Device(id="cpu-0", kind="cpu", index=0, name="", total_bytes=1, epsilon_bytes=0)
CRASHED = Step(state=StepState.QUEUED, epoch=1, attempt=1, last_reason=Reason.RUNNER_CRASHED)
DONE = Step(state=StepState.SUCCEEDED, epoch=1, attempt=1, reason=Reason.COMPLETED)


class Bench:
    """A claimed step that is about to end."""

    def __init__(self, store: MemoryStepStore, execution: Execution) -> None:
        self.store = store
        self.execution = execution
        self.job = store.jobs[execution.claim.job_id]
        self.metrics = execution.worker.metrics

    def codes(self) -> list[str]:
        return [str(event.code) for event in self.job.events]

    def count(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"dreamforge_{name}_total", labels)


def play(test: Callable[[Bench], Awaitable[None]], step: Step) -> None:
    async def main() -> None:
        store = MemoryStepStore()
        store.create(Work())
        claim = await claim_step(store)
        worker = SimpleNamespace(
            store=store,
            metrics=Metrics(),
            settings=settings_for_tests(),
            timings=timings_for_tests(),
        )
        execution = Execution(claim, Slot(CPU), cast(WorkerContext, worker), sent=0.0)
        execution.step = step
        await test(Bench(store, execution))
        execution.close()

    anyio.run(main)


def test_a_cancel_that_the_owner_did_not_see_ends_the_step_instead_of_its_retry() -> None:
    async def test(bench: Bench) -> None:
        bench.execution.recorder.record(Code.SIGNAL_SENT, "one")
        bench.store.request_cancel(bench.job.id)
        result = await write_verdict(bench.execution)
        assert result is not None
        assert (result.state, result.reason) == (StepState.CANCELLED, Reason.CANCELLED)
        assert bench.codes() == [
            "job.created",
            "step.claimed",
            "signal.sent",
            "step.finish",
            "job.finish",
        ]
        (step,) = bench.store.steps_of(bench.job.id)
        assert (step.state, step.attempt) == (StepState.CANCELLED, 1)
        assert bench.job.reason is Reason.CANCELLED
        assert bench.count("jobs_finished", status="cancelled", reason="cancelled") == 1
        assert not bench.count("retries", reason="runner_crashed")

    play(test, CRASHED)


def test_a_cancel_that_comes_after_the_retry_was_written_counts_as_one_cancelled_job() -> None:
    """The answer to the commit was lost, and the cancel ended what was back in the queue."""

    async def test(bench: Bench) -> None:
        bench.store.faults.lose_answer("finish")
        answer = bench.store.faults.hold("finish:answer")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write_verdict, bench.execution)
            await answer.reached.wait()
            assert bench.codes()[-1] == "retry"
            bench.store.request_cancel(bench.job.id)
            answer.release()
        assert bench.codes().count("job.finish") == 1
        assert bench.count("jobs_finished", status="cancelled", reason="cancelled") == 1

    play(test, CRASHED)


def test_an_event_that_was_logged_when_it_happened_is_not_logged_with_the_verdict(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(bench: Bench) -> None:
        bench.execution.recorder.record(Code.SIGNAL_SENT, "one")
        await write_verdict(bench.execution)
        assert bench.codes()[:4] == ["job.created", "step.claimed", "signal.sent", "step.finish"]

    with caplog.at_level(logging.DEBUG):
        play(test, DONE)
    codes = [str(record.code) for record in caplog.records if hasattr(record, "code")]
    assert codes == ["signal.sent", "step.finish"]
