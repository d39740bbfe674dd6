"""The events of a step are written in order, coalesced, bounded, and never hold it up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import anyio
import pytest
from tests.support.claims import claim_step
from tests.support.memory_store import MemoryStepStore, Work

from shared.events import Code
from shared.progress import StepProgress
from shared.protocol.messages import Log
from shared.states import StepState
from shared.step_store import Claim
from supervisor.recording import event_recorder as recorder_module
from supervisor.recording.event_recorder import LOGS_PER_S, PROGRESS_EVERY_S, EventRecorder


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(anyio, "current_time", clock)
    monkeypatch.setattr(recorder_module, "RETRY_S", 0.01)
    return clock


class Scene:
    """A claimed step, its recorder, and how often the recorder reported it stale."""

    def __init__(self, store: MemoryStepStore, claim: Claim) -> None:
        self.store = store
        self.claim = claim
        self.staleness = 0
        self.recorder = EventRecorder(claim, store, on_stale=self._on_stale)

    def _on_stale(self) -> None:
        self.staleness += 1

    def codes(self) -> list[str]:
        """Of what was recorded after the claim."""
        (_, _, *events) = self.store.jobs[self.claim.job_id].events
        return [str(event.code) for event in events]

    def shown(self) -> list[float]:
        events = self.store.jobs[self.claim.job_id].events
        return [dict(e.payload or {})["progress"] for e in events if e.code == Code.PROGRESS]

    def log(self, lines: int) -> None:
        for _ in range(lines):
            self.recorder.record_runner_log(Log(level="INFO", code="x", message="said"))


def play(test: Callable[[Scene], Awaitable[None]], **changes: object) -> None:
    async def main() -> None:
        store = MemoryStepStore()
        store.create(Work(), count=2)
        claim = await claim_step(store)
        await test(Scene(store, replace(claim, **changes)))  # type: ignore[arg-type]

    anyio.run(main)


def sampled(fraction: float) -> StepProgress:
    progress = StepProgress("generate", 2)
    progress.advance("sampling", item_index=0, fraction=fraction)
    return progress


def test_what_a_runner_quotes_is_in_the_record_and_not_in_the_log(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The record goes with its job, and the log stays."""
    line = Log(level="WARNING", code="prompt.truncated", message="cut", payload={"cut": "a secret"})

    async def test(scene: Scene) -> None:
        scene.recorder.record_runner_log(line)
        await scene.recorder.flush()
        (*_, event) = scene.store.jobs[scene.claim.job_id].events
        assert (event.payload or {})["data"] == {"cut": "a secret"}

    play(test)
    (logged,) = [vars(record) for record in caplog.records if record.message == "cut"]
    assert logged["payload"] == {"runner_code": "prompt.truncated"}


def test_facts_are_written_in_their_order_with_the_latest_state(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        scene.recorder.record(Code.SIGNAL_SENT, "one")
        scene.recorder.record_state(StepState.STOPPING)
        scene.recorder.record(Code.GPU_RECLAIMED, "two")
        scene.recorder.record_state(StepState.RECLAIMING)
        await scene.recorder.flush()
        assert scene.codes() == ["signal.sent", "gpu.reclaimed"]
        assert scene.store.steps[scene.claim.step_id].history[-1] is StepState.RECLAIMING
        assert scene.store.faults.calls.count("record") == 1

    play(test)


def test_nothing_to_say_is_no_transaction(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        await scene.recorder.flush()
        assert "record" not in scene.store.faults.calls

    play(test)


# Progress -----------------------------------------------------------------------------------------


def test_progress_is_written_twice_a_second_and_the_last_word_with_the_verdict(
    clock: Clock,
) -> None:
    async def test(scene: Scene) -> None:
        for tenth in range(10):
            scene.recorder.record_progress(sampled(tenth / 10), stage="sampling")
        await scene.recorder.flush()
        assert len(scene.shown()) == 1
        scene.recorder.record_progress(sampled(0.95), stage="sampling")
        await scene.recorder.flush()
        assert len(scene.shown()) == 1
        clock.now += PROGRESS_EVERY_S
        await scene.recorder.flush()
        assert len(scene.shown()) == 2
        scene.recorder.record_progress(sampled(1.0), stage="sampling")
        (last,) = await scene.recorder.drain()
        assert dict(last.payload or {})["progress"] > scene.shown()[-1]

    play(test)


def test_stages_that_follow_each_other_fast_are_written_together(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "GATHER_PROGRESS_S", 3600.0)

    async def test(scene: Scene) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.recorder.run)
            for stage in ("load", "sampling", "decode"):
                scene.recorder.record_progress(sampled(0.5), stage=stage)
                await anyio.wait_all_tasks_blocked()
            assert scene.codes() == []
            scene.recorder.record(Code.SIGNAL_SENT, "this does not wait")
            with anyio.fail_after(10):
                while len(scene.codes()) < 4:
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
        assert scene.codes() == ["progress", "progress", "signal.sent", "progress"]
        assert scene.store.faults.calls.count("record") == 1

    play(test)


def test_what_was_shown_never_goes_back_not_even_over_a_retry(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        scene.recorder.record_progress(sampled(0.1), stage="sampling")
        await scene.recorder.flush()
        assert scene.shown() == [0.9]

    play(test, progress=0.9)


def test_a_step_of_a_chain_fills_its_share_of_the_job(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        progress = StepProgress("generate", 2, done={0, 1})
        scene.recorder.record_progress(progress, stage="upload")
        await scene.recorder.flush()
        assert scene.shown() == [0.75]

    play(test, position=2, chain_length=4)


def test_progress_names_its_item_in_the_event_and_in_what_clients_read(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        scene.recorder.record_progress(
            sampled(0.5), stage="sampling", item_index=0, item_progress=0.4
        )
        await scene.recorder.flush()
        written = scene.store.jobs[scene.claim.job_id].events[-1]
        assert (written.code, written.item_index) == (Code.PROGRESS, 0)
        assert dict(written.payload or {})["item_index"] == 0

    play(test)


def test_log_lines_carry_the_ids_of_the_request_that_made_the_job(clock: Clock) -> None:
    async def named(scene: Scene) -> None:
        assert scene.recorder.fields["client_request_id"] == "order-4711"
        assert scene.recorder.fields["correlation_id"] == scene.claim.correlation_id

    async def unnamed(scene: Scene) -> None:
        assert "client_request_id" not in scene.recorder.fields

    play(named, client_request_id="order-4711")
    play(unnamed)


# Logs ---------------------------------------------------------------------------------------------


def test_lines_over_the_limit_are_counted_and_summed_up_once_a_second(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        for _ in range(10):  # ten flushes within one second of a flood
            scene.log(LOGS_PER_S)
            await scene.recorder.flush()
        assert scene.codes() == ["runner.log"] * LOGS_PER_S
        clock.now += 1
        scene.log(1)
        await scene.recorder.flush()
        assert scene.codes()[LOGS_PER_S:] == ["logs.dropped", "runner.log"]
        (summary,) = [
            event
            for event in scene.store.jobs[scene.claim.job_id].events
            if event.code == Code.LOGS_DROPPED
        ]
        assert summary.payload == {"dropped": 9 * LOGS_PER_S}

    play(test)


def test_what_was_dropped_last_is_written_with_the_verdict(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        scene.log(LOGS_PER_S + 3)
        await scene.recorder.flush()
        (summary,) = await scene.recorder.drain()
        assert summary.payload == {"dropped": 3}

    play(test)


# The database is away, or the step belongs to another worker -------------------------------------


def test_facts_wait_for_the_database_in_their_order(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        with scene.store.faults.away("record"):
            scene.recorder.record_state(StepState.STOPPING)
            scene.recorder.record(Code.SIGNAL_SENT, "one")
            await scene.recorder.flush()
            scene.recorder.record(Code.GPU_RECLAIMED, "two")
        await scene.recorder.flush()
        assert scene.codes() == ["signal.sent", "gpu.reclaimed"]
        assert scene.store.steps[scene.claim.step_id].state is StepState.STOPPING

    play(test)


def test_what_is_left_goes_with_the_verdict_and_nothing_is_written_after_it(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.recorder.run)
            with scene.store.faults.away("record"):
                scene.recorder.record(Code.SIGNAL_SENT, "one")
                scene.recorder.record_state(StepState.STOPPING)
                await anyio.wait_all_tasks_blocked()
                left = await scene.recorder.drain()
        assert [event.code for event in left] == [Code.SIGNAL_SENT]
        assert scene.codes() == []
        assert StepState.STOPPING not in scene.store.steps[scene.claim.step_id].history

    play(test)


def test_a_stale_claim_is_reported_and_ends_the_writing(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        scene.store.steal(scene.claim.step_id)
        scene.recorder.record(Code.SIGNAL_SENT, "one")
        with anyio.fail_after(10):
            await scene.recorder.run()
        assert scene.staleness == 1
        assert scene.codes() == []

    play(test)


def test_a_recorder_that_runs_writes_by_itself(clock: Clock) -> None:
    async def test(scene: Scene) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.recorder.run)
            scene.recorder.record(Code.SIGNAL_SENT, "one")
            with anyio.fail_after(10):
                while not scene.codes():
                    await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()

    play(test)


def test_what_happens_shortly_before_the_verdict_is_left_for_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "GATHER_S", 3600.0)

    async def test(scene: Scene) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scene.recorder.run)
            scene.recorder.record(Code.GPU_RECLAIMED, "memory is back")
            await anyio.wait_all_tasks_blocked()
            left = await scene.recorder.drain()
            assert [event.code for event in left] == [Code.GPU_RECLAIMED]
            assert scene.codes() == []
            tasks.cancel_scope.cancel()

    play(test)
