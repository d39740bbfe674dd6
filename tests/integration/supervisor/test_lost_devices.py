"""A device that is lost: its slot is out of service, its step is tried elsewhere, it returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support import context_holders, nvml_helpers
from tests.support.harness import PRESET, Bench, metric, serve, until
from tests.support.probes import FakeProbe

from shared.events import Code
from shared.states import Reason, StepState
from supervisor.devices import nvml_client
from supervisor.devices.device import Device, Reading
from supervisor.devices.gpu import GpuProbe
from supervisor.processes.tree import ProcessTree


def test_a_lost_device_takes_out_its_slot_alone_and_returns() -> None:
    probe = FakeProbe(2)

    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await bench.running(job)
        (held,) = [slot for slot in bench.slots if slot.job_id == job]
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
        context_holder_entry=context_holders.cannot,
    )

    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await bench.running(job)
        (held,) = [slot for slot in bench.slots if slot.job_id == job]
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
            if tree is not None and not tree.scan():
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


def test_a_device_that_is_lost_while_its_slot_is_free_costs_no_step_a_loss() -> None:
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

    serve(test, probe=probe, gauges_every_s=0.05)


def test_a_device_that_is_lost_while_a_claim_is_under_way_is_left_to_its_step() -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        job = await claimed_when_lost(bench, probe, bench.slot.id, gauges=3)
        assert bench.payload(job, Code.RETRY)["reason"] == Reason.GPU_UNHEALTHY
        await bench.in_state("lost")
        probe.lost.clear()
        assert (await bench.ended(job)).losses == 1

    serve(test, probe=probe, gauges_every_s=0.05)


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
