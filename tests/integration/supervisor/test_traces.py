"""What a try's spans say, from real processes: names, order, parents, outcome. In-memory parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import pytest
from tests.support import runners
from tests.support.harness import Bench, serving, until
from tests.support.probes import FakeProbe
from tests.support.spans import Recorder, Seen, below, only

from shared.states import StepState

TRACE, REQUEST = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{REQUEST}-01"
PHASES = ["queue", "start", "run", "stop", "reclaim", "publish", "verdict"]


def traced(test: Callable[[Bench], Awaitable[object]], **options: Any) -> list[Seen]:
    """The spans that are left when the test is over."""
    recorder = Recorder()

    async def main() -> None:
        async with serving(runners.main, tracer=recorder.tracer, **options) as bench:
            await bench.in_state("free")
            await test(bench)

    anyio.run(main)
    return recorder.spans()


def submit(bench: Bench, prompt: str, traceparent: str | None = SAMPLED, **changes: Any) -> UUID:
    job = bench.store.create(bench.work(prompt, **changes), count=changes.get("count", 1))
    bench.job(job).traceparent = traceparent
    bench.supervisor.notify()
    return job


def test_a_try_is_one_tree_below_the_request_that_made_its_job() -> None:
    async def test(bench: Bench) -> None:
        await bench.ended(submit(bench, "quick", count=2))

    spans = traced(test)
    assert {span.trace_id for span in spans} == {TRACE}
    tried = only(spans, "generate")
    assert (tried.parent, tried.kind, tried.failed) == (REQUEST, "consumer", False)
    inside = below(spans, tried)
    assert [span.name for span in inside if not span.name.startswith("upload")] == PHASES
    assert {span.name for span in inside if span.name.startswith("upload")} == {
        "upload 0",
        "upload 1",
    }
    items = below(spans, only(spans, "run"))
    assert [span.name for span in items] == ["item 0", "item 1"]
    # They follow each other without a gap, and all is within the try.
    phases = [span for span in inside if span.name in PHASES]
    assert [span.end_ns for span in phases[:-1]] == [span.start_ns for span in phases[1:]]
    assert all(tried.start_ns <= span.start_ns <= span.end_ns <= tried.end_ns for span in spans), (
        spans
    )
    assert {"claimed", "READY", "RESULT", "tree gone", "verified"} <= set(tried.events)


def test_a_try_names_its_job_device_preset_and_outcome_and_no_prompt() -> None:
    steps: list[tuple[UUID, UUID]] = []

    async def test(bench: Bench) -> None:
        job = submit(bench, "quick")
        step = await bench.ended(job)
        steps.append((job, step.id))

    spans = traced(test)
    ((job, step),) = steps
    about = only(spans, "generate").attributes
    expected = {
        "dreamforge.job.id": str(job),
        "dreamforge.step.id": str(step),
        "dreamforge.attempt": 1,
        "dreamforge.gpu.uuid": "cpu-0",
        "dreamforge.preset": "cpu",
        "dreamforge.model": "tiny@1",
        "dreamforge.outcome": "succeeded",
        "dreamforge.reason": "completed",
    }
    assert expected.items() <= dict(about).items()
    assert about["dreamforge.peak_gpu_mem_used"] > 0
    assert "quick" not in str([span.attributes for span in spans])  # its prompt


@pytest.mark.parametrize(
    ("prompt", "reason"), [("segfaults", "runner_crashed"), ("fails oom", "oom")]
)
def test_a_try_that_fails_is_an_error_with_its_code(prompt: str, reason: str) -> None:
    async def test(bench: Bench) -> None:
        await bench.ended(submit(bench, prompt))

    tried = only(traced(test, max_attempts=1), "generate")
    assert tried.failed and tried.message
    codes = {tried.attributes["error.type"], tried.attributes["dreamforge.reason"]}
    assert codes == ({"attempts_exhausted"} if reason == "runner_crashed" else {"oom"})
    assert tried.attributes["dreamforge.outcome"] == "failed"


def test_each_execution_of_a_step_is_a_span_of_the_one_trace(tmp_path: Any) -> None:
    async def test(bench: Bench) -> None:
        await bench.ended(submit(bench, f"crashes 1 {tmp_path / 'count'}"))

    tries = sorted(
        (span for span in traced(test) if span.name == "generate"),
        key=lambda span: span.start_ns,
    )
    outcomes = [
        (span.attributes["dreamforge.attempt"], span.attributes["dreamforge.outcome"], span.failed)
        for span in tries
    ]
    assert outcomes == [(1, "queued", True), (2, "succeeded", False)]
    assert {span.parent for span in tries} == {REQUEST}


def test_a_cancel_is_no_error_and_shows_the_signal_and_the_item_that_it_cut() -> None:
    async def test(bench: Bench) -> None:
        job = submit(bench, "stuck_in_c")
        await bench.running(job)
        bench.store.request_cancel(job)
        await bench.ended(job)

    spans = traced(test)
    tried = only(spans, "generate")
    assert (tried.failed, tried.attributes["dreamforge.reason"]) == (False, "cancelled")
    assert "SIGKILL" in tried.attributes["dreamforge.signals"]
    assert "cancel" in tried.events
    stop = only(spans, "stop")
    assert stop.end_ns - stop.start_ns >= 0.3e9  # its term grace


@pytest.mark.parametrize("traceparent", [None, "nonsense", f"00-{TRACE}-{REQUEST}-00"])
def test_a_job_whose_request_was_not_sampled_leaves_no_span(traceparent: str | None) -> None:
    async def test(bench: Bench) -> None:
        await bench.ended(submit(bench, "quick", traceparent))

    assert traced(test) == []


def test_waiting_for_memory_is_one_look_however_long_it_lasts() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        probe.foreign["cpu-0"] = bench.slot.device.total_bytes
        job = submit(bench, "quick", vram_bytes=1 << 20)
        busy = {"reason": "vram_busy"}
        looks = partial(bench.metrics.registry.get_sample_value, "dreamforge_retries_total", busy)
        await until(lambda: (looks() or 0) >= 4, "four looks")
        probe.foreign.clear()
        await bench.ended(job)

    outcomes = [
        span.attributes["dreamforge.outcome"]
        for span in traced(test, probe=probe)
        if span.name == "generate"
    ]
    assert outcomes == ["queued", "succeeded"]


def test_a_worker_that_lost_its_step_says_stale_and_the_sweeper_why() -> None:
    async def test(bench: Bench) -> None:
        job = submit(bench, "polite")
        await bench.running(job)
        bench.store.steal(bench.step(job).id)
        await bench.in_state("free")
        bench.store.pass_time(7200)
        await until(lambda: bench.step(job).history.count(StepState.RUNNING) == 2, "another try")
        bench.store.request_cancel(job)
        await bench.ended(job)

    spans = traced(test, lease_renew_s=0.1)
    lost = only(spans, "generate", dreamforge__outcome="stale")
    assert lost.failed
    swept = only(spans, "sweep generate")
    assert (swept.parent, swept.failed) == (REQUEST, True)
    assert swept.attributes["dreamforge.reason"] == "lease_lost"


class Broken:
    """A tracer that raises at every call."""

    def begin(self, *_: Any) -> Any:
        raise RuntimeError

    def emit(self, *_: Any) -> None:
        raise RuntimeError("no")

    def close(self) -> None:
        raise RuntimeError


def test_a_tracer_that_fails_costs_a_line_in_the_log_and_no_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with serving(runners.main, tracer=Broken(), failing=True) as bench:
            await bench.in_state("free")
            step = await bench.ended(submit(bench, "quick"))
            assert step.state is StepState.SUCCEEDED

    anyio.run(main)
    assert "the execution could not be traced" in caplog.text
