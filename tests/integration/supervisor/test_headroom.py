"""A step starts where its memory is free, waits for it, or is given up with numbers."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import psutil
from tests.support.harness import Bench, serve, until
from tests.support.probes import FakeProbe, HostProbe

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


def test_two_steps_that_begin_at_once_are_not_promised_the_same_memory() -> None:
    """Neither has taken its memory when the other one is admitted: all of it is free."""
    probe = HostProbe(total_bytes=1000 << 20, slots=2)

    async def test(bench: Bench) -> None:
        probe.taken_bytes = lambda: sum(rss_bytes(each) for each in bench.processes())
        jobs = [bench.submit("polite", vram_bytes=600 << 20) for _ in range(2)]
        await until(lambda: any(waited(bench, job) for job in jobs), "one of them waits")
        (waits,) = (job for job in jobs if waited(bench, job))
        (runs,) = (job for job in jobs if job != waits)
        await bench.running(runs)
        assert not waited(bench, runs)
        assert StepState.RUNNING not in bench.step(waits).history
        bench.store.request_cancel(runs)
        await bench.ended(runs)
        await bench.running(waits)
        bench.store.request_cancel(waits)
        await bench.ended(waits)

    serve(test, probe=probe, slots=2)


def rss_bytes(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def waited(bench: Bench, job: UUID) -> bool:
    return bool(bench.events(job, Code.RETRY))


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
