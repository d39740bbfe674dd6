"""Slots whose device misbehaves, and runners that stand by: quarantine, loss, return."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx
import pytest
from tests.support import nvml_helpers, runners, witnesses
from tests.support.harness import PRESET, Bench, serving, until
from tests.support.probes import FakeProbe, LeakyProbe, SlowProbe

from shared.events import Code
from shared.states import Reason, StepState
from supervisor import nvml_client, supervisor
from supervisor.devices import Device, Reading
from supervisor.gpu_probe import GpuProbe
from supervisor.health import Health, create_app
from supervisor.presence import told
from supervisor.runner_process import RunnerProcess
from supervisor.tree import MARKER, ProcessTree, marker_of

LEAK_BYTES = 3 << 20


def serve(test: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with serving(runners.main, **options) as bench:
            await bench.in_state("free", "lost", "quarantined")
            await test(bench)

    anyio.run(main)


def metric(bench: Bench, name: str, **labels: str) -> float | None:
    return bench.metrics.registry.get_sample_value(name, labels)


# Figures ------------------------------------------------------------------------------------------


def test_each_step_tells_its_memory_at_the_start_and_at_the_end() -> None:
    gpu = {"gpu": "0", "uuid": "cpu-0"}

    async def test(bench: Bench) -> None:
        job = bench.submit("stuck_in_c")
        await bench.ended(job)
        start, end = (dict(event.payload or {}) for event in bench.events(job, Code.GPU_MEM))
        assert (start["at"], start["gpu_mem_used_before"]) == ("start", 0)
        assert start["gpu_mem_total"] == bench.slot.device.total_bytes
        assert (end["at"], end["signals"]) == ("end", ["SIGTERM", "SIGKILL"])
        assert end["gpu_mem_used_before"] == end["gpu_mem_used_after"] == 0
        peak = end["peak_gpu_mem_used"]
        assert metric(bench, "dreamforge_step_memory_bytes", **gpu, when="peak") == peak > 0
        assert metric(bench, "dreamforge_step_memory_bytes", **gpu, when="after") == 0
        assert metric(bench, "dreamforge_signals_total", **gpu, signal="SIGKILL") == 1
        assert metric(bench, "dreamforge_reclaim_seconds_count", **gpu) == 1

    serve(test, timeout_s=0.3, term_grace_s=0.3)


def test_a_devices_memory_is_among_its_series() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        gpu = {"gpu": "0", "uuid": "cpu-0"}
        probe.foreign["cpu-0"] = LEAK_BYTES
        probe.reserved_bytes = 7
        await until(
            lambda: metric(bench, "dreamforge_memory_used_bytes", **gpu) == LEAK_BYTES, "gauges"
        )
        assert metric(bench, "dreamforge_memory_reserved_bytes", **gpu) == 7
        total = metric(bench, "dreamforge_memory_total_bytes", **gpu)
        assert total == bench.slot.device.total_bytes
        # A claim that finds nothing holds the slot for a moment, perhaps just when the gauges look.
        await until(
            lambda: metric(bench, "dreamforge_slot_state", **gpu, state="free") == 1, "the state"
        )

    serve(test, probe=probe)


# Quarantine ---------------------------------------------------------------------------------------


def test_a_slot_stays_quarantined_while_memory_is_held_and_returns_by_itself() -> None:
    probe = LeakyProbe(leak_bytes=LEAK_BYTES)
    gpu = {"gpu": "0", "uuid": "cpu-0"}

    async def test(bench: Bench) -> None:
        job = bench.submit("quick")
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        assert bench.slot.state == "quarantined"
        event = bench.payload(job, Code.GPU_NOT_RECLAIMED)
        assert event["leaked_bytes"] == event["gpu_mem_used_after"] == LEAK_BYTES
        assert bench.payload(job, Code.STEP_FINISH)["gpu_mem_used_after"] == LEAK_BYTES
        assert metric(bench, "dreamforge_leaked_bytes", **gpu) == LEAK_BYTES
        assert metric(bench, "dreamforge_quarantines_total", **gpu) == 1

        waiting = bench.submit("quick")
        reads = probe.reads
        await until(lambda: probe.reads > reads + 5, "the slot is looked at again")
        assert bench.step(waiting).history == [StepState.QUEUED]
        probe.release()
        assert (await bench.ended(waiting)).state is StepState.SUCCEEDED
        assert metric(bench, "dreamforge_leaked_bytes", **gpu) == 0

    serve(test, probe=probe, reclaim_deadline_s=0.3)


def test_a_slot_in_quarantine_says_so_while_it_is_verified_again() -> None:
    probe = LeakyProbe(leak_bytes=LEAK_BYTES)
    gpu = {"gpu": "0", "uuid": "cpu-0"}

    async def test(bench: Bench) -> None:
        await bench.ended(bench.submit("quick"))
        seen: set[tuple[str, str]] = set()
        reads = probe.reads
        while probe.reads < reads + 20:  # several verifications, 0.3 s each
            ready = await readyz(bench)
            seen.add((ready["slots"]["cpu-0"], ready["down"]["slots"]))
            await anyio.sleep(0.01)
        assert seen == {("quarantined", "no slot can take work")}
        await until(
            lambda: metric(bench, "dreamforge_slot_state", **gpu, state="quarantined") == 1,
            "the gauge",
        )
        assert told(bench.slot).state == "quarantined"
        probe.release()
        await bench.in_state("free")

    serve(test, probe=probe, reclaim_deadline_s=0.3)


async def readyz(bench: Bench) -> dict[str, Any]:
    """What the worker's own probe says."""
    app = create_app(
        Health(
            metrics=bench.metrics,
            slots=bench.supervisor.slots,
            checks={},
            draining=lambda: bench.supervisor.draining,
        )
    )
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        return dict((await client.get("/readyz")).json())


def test_no_slot_is_served_while_an_orphan_of_a_dead_worker_lives() -> None:
    probe, orphans = FakeProbe(), [7]
    probe.held["cpu-0"] = LEAK_BYTES  # what it holds, and nobody says by whom

    async def test(bench: Bench) -> None:
        assert bench.slot.state == "quarantined"
        job = bench.submit("quick")
        for _ in range(10):  # several polls and verifications
            await anyio.sleep(0.05)
            assert bench.slot.baseline.held_to is None  # what the orphan holds is no baseline
        assert bench.step(job).history == [StepState.QUEUED]
        probe.held.clear()
        orphans.clear()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        await bench.in_state("free")
        assert bench.slot.baseline.held_to == 0

    serve(test, probe=probe, survivors=lambda: list(orphans))


def test_memory_that_comes_back_after_its_deadline_changes_nothing_about_the_step(
    tmp_path: Path,
) -> None:
    probe = LeakyProbe(leak_bytes=LEAK_BYTES)
    gpu = {"gpu": "0", "uuid": "cpu-0"}

    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("put")
        job = bench.submit("quick")
        await until(lambda: bench.events(job, Code.GPU_NOT_RECLAIMED), "quarantine")
        at_deadline = bench.payload(job, Code.GPU_NOT_RECLAIMED)
        probe.release()
        await bench.in_state("free")
        other = bench.submit(f"waits_for {tmp_path / 'go'}")  # it has the device now
        await bench.running(other)
        probe.held["cpu-0"] = 7 * LEAK_BYTES
        reads = probe.reads
        await until(lambda: probe.reads > reads + 10, "two seconds of looks")
        assert metric(bench, "dreamforge_leaked_bytes", **gpu) == 0
        hold.release()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        finish = bench.payload(job, Code.STEP_FINISH)
        assert finish["gpu_mem_used_after"] == at_deadline["gpu_mem_used_after"] == LEAK_BYTES
        assert finish["reclaim_seconds"] == at_deadline["reclaim_seconds"]
        assert bench.events(job, Code.GPU_RECLAIMED) == []
        probe.held.clear()
        (tmp_path / "go").touch()
        await bench.ended(other)

    serve(test, probe=probe, reclaim_deadline_s=0.3)


def test_a_reading_that_is_answered_after_the_deadline_is_not_the_steps() -> None:
    class Stuck(LeakyProbe):
        """After one look at what a dead runner left, answers that come late and are cancelled by
        nobody."""

        looks = 0
        answer = anyio.Event()

        async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
            now = await super().read(device, tree)
            if tree is None or tree.observe():
                return now
            self.looks += 1
            if self.looks == 1:
                return now
            with anyio.CancelScope(shield=True):
                await self.answer.wait()
            return replace(now, used_bytes=9 * LEAK_BYTES)

    probe = Stuck(leak_bytes=LEAK_BYTES)

    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("put")
        job = bench.submit("quick")
        await until(lambda: bench.events(job, Code.GPU_NOT_RECLAIMED), "the deadline")
        at_deadline = bench.payload(job, Code.GPU_NOT_RECLAIMED)
        probe.answer.set()
        looks = probe.looks
        await until(lambda: probe.looks > looks + 2, "further looks")
        hold.release()
        await bench.ended(job)
        finish = bench.payload(job, Code.STEP_FINISH)
        assert finish["gpu_mem_used_after"] == at_deadline["gpu_mem_used_after"]
        assert finish["gpu_mem_used_after"] != 9 * LEAK_BYTES

    serve(test, probe=probe, reclaim_deadline_s=0.3)


def test_memory_that_comes_back_late_is_waited_for() -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("quick")
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        assert bench.payload(job, Code.GPU_RECLAIMED)["gpu_mem_used_after"] == 0
        assert bench.events(job, Code.GPU_NOT_RECLAIMED) == []

    serve(test, probe=SlowProbe(readings=3))


def test_what_a_foreign_process_takes_meanwhile_is_an_event_and_no_leak() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        job = bench.submit("slow_exit 3600")
        await bench.reaches(job, "stopping")
        probe.foreign["cpu-0"] = LEAK_BYTES
        await bench.ended(job)
        await bench.in_state("free")
        assert bench.payload(job, Code.GPU_FOREIGN) == {"growth_bytes": LEAK_BYTES}

    serve(test, probe=probe, exit_grace_s=0.3)


def test_a_slot_is_not_free_while_a_process_survives_sigkill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(ProcessTree, "kill", lambda tree: None)
            # Not even its memory tells that it is there: the device accounts for nobody.
            patched.setattr(ProcessTree, "rss_bytes", lambda tree: 0)
            job = bench.submit("stuck_in_c")
            await bench.ended(job)
            assert bench.step(job).reason is Reason.TIMEOUT
            (survivor,) = bench.processes()
            assert bench.payload(job, Code.UNKILLABLE) == {"pids": [survivor.pid]}
            reads = probe.reads
            await until(lambda: probe.reads > reads + 5, "the slot is looked at again")
            assert bench.slot.state == "quarantined"
        survivor.kill()
        await bench.in_state("free")

    serve(test, probe=probe, timeout_s=0.3, kill_deadline_s=0.3, reclaim_deadline_s=0.3)


# A device that is lost ----------------------------------------------------------------------------


def test_a_lost_device_takes_out_its_slot_alone_and_returns() -> None:
    probe = FakeProbe(2)

    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await bench.running(job)
        (held,) = [slot for slot in bench.slots if slot.state == "held"]
        probe.lost.add(held.id)
        await bench.ended(job)
        error = bench.step(job).error or {}
        assert error["details"]["last_error"]["code"] == Reason.GPU_UNHEALTHY
        assert held.state == "lost"
        other = bench.submit("quick")
        assert (await bench.ended(other)).state is StepState.SUCCEEDED
        assert held.state == "lost"
        probe.lost.clear()
        await bench.in_state("free")

    serve(test, probe=probe, max_attempts=1, exit_grace_s=0.1)


def test_a_gpu_that_hangs_takes_out_its_slot_alone_and_returns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DREAMFORGE_RUNNER_HANGS", str(tmp_path))
    monkeypatch.setattr(nvml_client, "CALL_S", 1.0)
    probe = GpuProbe(
        f"test:{uuid4()}",
        entry=nvml_helpers.hangs_while_told,
        witness_entry=witnesses.cannot,
    )

    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await bench.running(job)
        (held,) = [slot for slot in bench.slots if slot.state == "held"]
        monkeypatch.setattr(nvml_client, "START_S", 3.0)
        (tmp_path / held.id).touch()
        await until(lambda: held.state == "lost", lambda: held.state)
        await bench.ended(job)
        error = (bench.step(job).error or {})["details"]["last_error"]
        assert error["code"] == Reason.GPU_UNHEALTHY
        other = bench.submit("quick")
        assert (await bench.ended(other)).state is StepState.SUCCEEDED
        assert held.state == "lost"
        (tmp_path / held.id).unlink()
        await bench.in_state("free")

    try:
        serve(test, probe=probe, preset=PRESET | {"device": "cuda"}, max_attempts=1)
    finally:
        anyio.run(probe.close)


def test_a_runner_that_died_with_its_device_is_the_devices_fault() -> None:
    class DiesWithIt(FakeProbe):
        async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
            if tree is not None and not tree.observe():
                self.lost.add(device.id)
            return await super().read(device, tree)

    probe = DiesWithIt()

    async def test(bench: Bench) -> None:
        job = bench.submit("leaves_early")
        await bench.ended(job)
        error = (bench.step(job).error or {})["details"]["last_error"]
        assert error["code"] == Reason.GPU_UNHEALTHY
        assert error["details"] == {"exit": "exit code 0"}
        await bench.in_state("lost")

    serve(test, probe=probe, max_attempts=1)


def test_a_device_that_is_lost_while_its_slot_is_free_costs_no_step_a_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "GAUGES_EVERY_S", 0.05)
    probe = FakeProbe()
    gpu = {"gpu": "0", "uuid": "cpu-0"}

    async def test(bench: Bench) -> None:
        probe.lost.add("cpu-0")
        await bench.in_state("lost")
        assert metric(bench, "dreamforge_quarantines_total", **gpu) == 1
        await until(
            lambda: metric(bench, "dreamforge_slot_state", **gpu, state="lost") == 1, "the gauge"
        )
        job = bench.submit("quick")
        reads = probe.reads
        await until(lambda: probe.reads > reads + 3, "the slot is looked at again")
        assert bench.step(job).history == [StepState.QUEUED]
        probe.lost.clear()
        step = await bench.ended(job)
        assert (step.state, step.losses) == (StepState.SUCCEEDED, 0)
        await bench.in_state("free")

    serve(test, probe=probe)


def test_a_device_that_is_lost_while_a_claim_is_under_way_is_left_to_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "GAUGES_EVERY_S", 0.05)
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        job = await claimed_when_lost(bench, probe, bench.slot.id, gauges=3)
        assert bench.payload(job, Code.RETRY)["reason"] == Reason.GPU_UNHEALTHY
        await bench.in_state("lost")
        probe.lost.clear()
        assert (await bench.ended(job)).losses == 1

    serve(test, probe=probe)


async def claimed_when_lost(
    bench: Bench, probe: FakeProbe, device: str, *, gauges: int = 0
) -> UUID:
    """A step whose device is lost while it is claimed; `gauges`: how often it is read meanwhile."""
    hold = bench.store.faults.hold("claim")
    await hold.reached.wait()
    job = bench.submit("quick")
    probe.lost.add(device)
    reads = probe.reads
    await until(lambda: probe.reads >= reads + gauges, "the gauges look")
    hold.release()
    await until(lambda: bench.events(job, Code.RETRY) or bench.step(job).reason, "its end")
    return job


def test_a_step_that_meets_a_lost_device_is_tried_elsewhere() -> None:
    probe = FakeProbe(2)

    async def test(bench: Bench) -> None:
        first = bench.slots[0]
        job = await claimed_when_lost(bench, probe, first.id)
        step = await bench.ended(job)
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 1)
        assert bench.payload(job, Code.RETRY)["reason"] == Reason.GPU_UNHEALTHY
        assert first.state == "lost"

    serve(test, probe=probe)


def test_a_step_that_keeps_meeting_lost_devices_is_given_up() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        step = await bench.ended(await claimed_when_lost(bench, probe, "cpu-0"))
        assert (step.reason, step.attempt, step.losses) == (Reason.ATTEMPTS_EXHAUSTED, 0, 1)
        assert (step.error or {})["details"]["last_error"]["code"] == Reason.GPU_UNHEALTHY

    serve(test, probe=probe, max_losses=1)


def test_a_device_that_is_lost_from_the_start_takes_no_work_until_it_answers() -> None:
    probe = FakeProbe()
    probe.lost.add("cpu-0")

    async def test(bench: Bench) -> None:
        job = bench.submit("quick")
        reads = probe.reads
        await until(lambda: probe.reads > reads + 3, "the slot is looked at again")
        assert bench.step(job).history == [StepState.QUEUED]
        probe.lost.clear()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED

    serve(test, probe=probe)


def test_a_device_that_could_not_be_described_at_start_is_described_when_it_is_back() -> None:
    class Unknown(FakeProbe):
        async def devices(self) -> list[Device]:
            return [
                replace(device, total_bytes=0, lost="off the bus")
                if device.id in self.lost
                else device
                for device in await super().devices()
            ]

    probe = Unknown(2)
    probe.lost.add("cpu-0")

    async def test(bench: Bench) -> None:
        first, second = bench.slots
        assert (first.state, first.device.total_bytes) == ("lost", 0)
        step = await bench.ended(bench.submit("quick"))
        assert step.state is StepState.SUCCEEDED
        assert second.device.total_bytes > 0
        probe.lost.clear()
        await bench.in_state("free")
        assert first.device == replace(second.device, id="cpu-0", index=0)

    serve(test, probe=probe)


# Headroom -----------------------------------------------------------------------------------------


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


# Runners ------------------------------------------------------------------------------------------


def test_a_standby_is_used_once_and_replaced() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.processes()) == 1, "a standby")
        (first,) = bench.processes()
        job = bench.submit("polite")
        await bench.running(job)
        assert bench.processes() == [first]
        bench.store.request_cancel(job)
        await bench.ended(job)
        await until(lambda: len(bench.processes()) == 1, "another standby")
        (second,) = bench.processes()
        assert second != first

    serve(test, standby=True)


def test_a_runner_is_born_with_what_it_keeps_and_the_worker_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"):
        monkeypatch.setenv(name, "a-token")
    monkeypatch.setenv("LC_TIME", "C")

    async def test(bench: Bench) -> None:
        before = dict(os.environ)
        job = bench.submit("polite")
        await bench.running(job)
        (runner,) = bench.processes()
        born = Path(f"/proc/{runner.pid}/environ").read_text().split("\0")
        assert {"LC_TIME=C", "CUDA_VISIBLE_DEVICES=", f"{MARKER}={marker_of(runner.pid)}"} <= set(
            born
        )
        assert not [entry for entry in born if "a-token" in entry]
        assert dict(os.environ) == before
        bench.store.request_cancel(job)

    serve(test)


def test_a_dead_standby_is_not_used() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.processes()) == 1, "a standby")
        (standby,) = bench.processes()
        standby.kill()
        await until(lambda: not standby.is_running() or standby.status() == "zombie", "dead")
        step = await bench.ended(bench.submit("quick"))
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 0)

    serve(test, standby=True)


def test_a_host_that_cannot_start_a_process_costs_a_loss_and_no_worker() -> None:
    async def test(bench: Bench) -> None:
        take, failures = bench.runners.take, [OSError("no more processes")]

        def fail_once(device: Device) -> RunnerProcess:
            if failures:
                raise failures.pop()
            return take(device)

        bench.runners.take = fail_once  # type: ignore[method-assign]
        step = await bench.ended(bench.submit("quick"))
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 1)

    serve(test)


def test_a_worker_that_served_many_steps_keeps_no_zombie() -> None:
    async def test(bench: Bench) -> None:
        for _ in range(3):
            await bench.ended(bench.submit("leaves_grandchild"))
        await bench.in_state("free")
        assert bench.children() == set()

    serve(test, exit_grace_s=0.05)
