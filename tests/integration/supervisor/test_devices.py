"""What is read of a device, and a slot in quarantine: it takes no work, and returns by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from tests.support.harness import Bench, metric, serve, until
from tests.support.probes import FakeProbe, LeakyProbe, SlowProbe

from shared.events import Code
from shared.states import Reason, StepState
from supervisor.devices.device import Device, Reading
from supervisor.health import Health, create_app
from supervisor.membership.heartbeat import slot_row
from supervisor.processes.tree import ProcessTree

LEAK_BYTES = 3 << 20


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
        assert slot_row(bench.slot).state == "quarantined"
        probe.release()
        await bench.in_state("free")

    serve(test, probe=probe, reclaim_deadline_s=0.3)


async def readyz(bench: Bench) -> dict[str, Any]:
    """What the worker's own probe reads."""
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
    probe.held["cpu-0"] = LEAK_BYTES  # in use, without a process that is listed for it

    async def test(bench: Bench) -> None:
        assert bench.slot.state == "quarantined"
        job = bench.submit("quick")
        for _ in range(10):  # several polls and verifications
            await anyio.sleep(0.05)
            assert bench.slot.baseline.limit_bytes is None  # what the orphan holds is no baseline
        assert bench.step(job).history == [StepState.QUEUED]
        probe.held.clear()
        orphans.clear()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        await bench.in_state("free")
        assert bench.slot.baseline.limit_bytes == 0

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
        """After one reading of what a dead runner left, answers that come late, uncancelled."""

        looks = 0
        answer = anyio.Event()

        async def read(self, device: Device, tree: ProcessTree | None) -> Reading:
            now = await super().read(device, tree)
            if tree is None or tree.scan():
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
            # Its memory does not show it either: the device accounts for no process.
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
