"""A step starts where its memory is free, waits for it, or is given up with numbers."""

from __future__ import annotations

from uuid import UUID

from tests.support.harness import Bench, serve, until
from tests.support.probes import FakeProbe

from shared.events import Code
from shared.states import Reason, StepState


def test_a_step_waits_while_a_foreign_process_holds_the_memory() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        total = bench.slot.device.total_bytes
        probe.foreign["cpu-0"] = total
        job = bench.submit("quick", vram_bytes=total // 4)
        await until(lambda: bench.step(job).epoch > 2, "tried again and again")
        probe.foreign.clear()
        step = await bench.ended(job)
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 0)
        assert len(bench.events(job, Code.RETRY)) == 1  # said once
        assert len(bench.events(job, Code.STEP_CLAIMED)) == 1

    serve(test, probe=probe)


def test_a_step_that_waited_too_long_for_memory_fails() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        total = bench.slot.device.total_bytes
        probe.foreign["cpu-0"] = total
        step = await bench.ended(bench.submit("quick", vram_bytes=total // 4))
        assert step.reason is Reason.INSUFFICIENT_VRAM
        details = (step.error or {})["details"]
        assert (details["need_bytes"], details["available_bytes"]) == (total // 4, 0)
        assert details["holders"] == {"1": total}
        await bench.in_state("free")

    serve(test, probe=probe, vram_wait_s=0.0)


async def taken_before_go(bench: Bench, probe: FakeProbe) -> UUID:
    """A step for which there was memory until its runner had been started."""
    total = bench.slot.device.total_bytes
    hold = bench.store.faults.hold("record")
    job = bench.submit("quick", vram_bytes=total // 4)
    await until(bench.processes, "a runner")
    probe.foreign["cpu-0"] = total
    hold.release()
    return job


def test_memory_that_is_taken_before_go_is_waited_for_in_the_queue() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        job = await taken_before_go(bench, probe)
        await until(lambda: bench.step(job).epoch > 2, "tried again and again")
        assert StepState.RUNNING not in bench.step(job).history
        assert bench.processes() == []
        probe.foreign.clear()
        step = await bench.ended(job)
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 0)
        (retry,) = bench.events(job, Code.RETRY)  # said once
        assert "memory is busy" in retry.message
        assert bench.payload(job, Code.STEP_START)["gpu_mem_used_before"] == 0

    serve(test, probe=probe)


def test_memory_that_is_taken_before_go_for_too_long_fails_the_step() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        job = await taken_before_go(bench, probe)
        step = await bench.ended(job)
        total = bench.slot.device.total_bytes
        assert (step.reason, step.attempt) == (Reason.INSUFFICIENT_VRAM, 0)
        details = (step.error or {})["details"]
        assert (details["need_bytes"], details["available_bytes"]) == (total // 4, 0)
        assert details["holders"] == {"1": total}
        await bench.in_state("free")

    serve(test, probe=probe, vram_wait_s=0.0)


def test_a_step_that_cannot_be_read_fails_alone() -> None:
    async def test(bench: Bench) -> None:
        bad = bench.submit("quick", params={"prompt": "quick", "width": "wide"})
        assert (await bench.ended(bad)).reason is Reason.INTERNAL
        good = bench.submit("quick")
        assert (await bench.ended(good)).state is StepState.SUCCEEDED

    serve(test)
