"""An error of our own costs one step, or the whole worker, but never a dirty slot.

Each test makes one part raise an unforeseen error. Real processes, in-memory parts.
"""

from __future__ import annotations

import math
import os
from typing import Any
from uuid import UUID

import anyio
import psutil
import pytest
from tests.support import runners
from tests.support.harness import SHORT_LEASE, Bench, marked, serve, serving, until
from tests.support.probes import BlindProbe, FakeProbe
from tests.support.runner_starts import runner_start  # noqa: F401 - each test, both ways

from shared.events import Code
from shared.states import Reason, StepState
from supervisor.processes import tree as tree_module
from supervisor.processes.spawned import SpawnedProcess
from supervisor.processes.tree import ProcessTree, trees
from supervisor.slots import runner_pool as runners_module
from supervisor.supervisor import Supervisor
from supervisor.templates.templates import Templates

GPU = {"gpu": "0", "uuid": "cpu-0"}


class Unforeseen(Exception):
    pass


def raise_once(bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, job: UUID) -> None:
    """Let the store's next call for this job raise what it never says it could."""
    honest, left = getattr(bench.store, call), [Unforeseen(call)]

    async def unforeseen(claim: Any, *rest: Any) -> Any:
        if left and claim.job_id == job:
            raise left.pop()
        return await honest(claim, *rest)

    monkeypatch.setattr(bench.store, call, unforeseen)


# One step -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["commit_running", "record", "add_artifact", "finish"])
def test_an_executor_that_fails_takes_nothing_along_and_its_step_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def test(bench: Bench) -> None:
        neighbour = bench.submit("polite")
        await bench.running(neighbour)
        (kept,) = bench.processes()
        job = bench.work("leaves_nameless_grandchild")
        job_id = bench.store.create(job)
        raise_once(bench, monkeypatch, call, job_id)
        # As after a claim without an answer: a step without an executor is put back at once, but
        # not this one.
        bench.supervisor.unacknowledged_until = math.inf
        bench.supervisor.notify()
        step = await bench.ended(job_id)
        assert step.state is StepState.SUCCEEDED
        assert step.losses == 1  # by the rescuer, when the lease was over
        # A look for more work holds a free slot for a moment, too.
        await until(lambda: sum(slot.state == "held" for slot in bench.slots) == 1, "one is free")
        (other,) = [slot for slot in bench.slots if slot.state != "held"]
        gpu = {"gpu": str(other.device.index), "uuid": other.id}
        taken_out = bench.metrics.registry.get_sample_value("dreamforge_quarantines_total", gpu)
        # The verdict alone comes when the slot has been given back already.
        assert taken_out == (0 if call == "finish" else 1)
        assert bench.processes() == [kept]
        assert bench.step(neighbour).state is StepState.RUNNING
        bench.store.request_cancel(neighbour)
        await bench.ended(neighbour)
        await bench.in_state("free")

    serve(test, slots=2, failing=True, exit_grace_s=0.1, **SHORT_LEASE)


def test_an_abandoned_slot_is_proven_before_it_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    probe = FakeProbe()

    async def test(bench: Bench) -> None:
        job = bench.store.create(bench.work("polite"))
        raise_once(bench, monkeypatch, "record", job)
        probe.held["cpu-0"] = 1 << 20  # as if its runner had left it
        bench.slot.baseline.limit_bytes = 0
        monkeypatch.setattr(bench.slot.baseline, "update_idle", lambda _: 0)
        bench.supervisor.notify()
        await bench.in_state("quarantined")
        failures = bench.metrics.registry.get_sample_value("dreamforge_driver_failures_total", GPU)
        assert failures == 1
        reads = probe.reads
        await until(lambda: probe.reads > reads + 5, "it is looked at")
        assert bench.slot.state == "quarantined"
        probe.held.clear()
        await bench.in_state("free")
        bench.store.request_cancel(job)

    serve(test, probe=probe, failing=True, reclaim_deadline_s=0.3)


def test_words_that_trip_us_cost_the_step_that_said_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(*_: Any) -> None:
        raise Unforeseen

    monkeypatch.setattr("supervisor.recording.progress.ProgressReporter.advance", trip)

    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await bench.ended(job)
        await bench.in_state("free")
        error = (bench.step(job).error or {})["details"]["last_error"]
        assert error["code"] == Reason.RUNNER_CRASHED
        assert error["details"]["protocol"] == "its words raised Unforeseen"
        assert bench.events(job, Code.GPU_RECLAIMED)

    serve(test, failing=True, max_attempts=1)


# Want of processes and descriptors ----------------------------------------------------------------


def test_a_host_whose_processes_cannot_be_listed_costs_no_step_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(bench: Bench) -> None:
        neighbour = bench.submit("polite")
        await bench.running(neighbour)
        (kept,) = bench.processes()
        failing = bench.submit("stuck_in_c")
        await bench.running(failing)
        looks: list[int] = []

        def blind(pid: int) -> set[int]:
            looks.append(pid)
            raise OSError("no more descriptors")

        def failures() -> float:
            families = bench.metrics.executor_failures.collect()
            return sum(s.value for f in families for s in f.samples if s.name.endswith("_total"))

        with monkeypatch.context() as patched:
            patched.setattr(tree_module, "children_of", blind)
            await until(lambda: len(looks) > 10, "each is looked at")
            assert failures() == 0
            # And the driver that fails meanwhile cannot see whom it kills.
            raise_once(bench, monkeypatch, "record", failing)
            bench.store.request_cancel(failing)
            await until(lambda: failures() == 1, "one driver failed")
            await until(lambda: bench.processes() == [kept], "its runner is dead all the same")
        await until(lambda: sum(s.state == "held" for s in bench.slots) == 1, "a slot is back")
        assert bench.step(neighbour).state is StepState.RUNNING
        bench.store.request_cancel(neighbour)
        await bench.ended(neighbour)
        await bench.ended(failing)
        await bench.in_state("free")

    serve(test, slots=2, failing=True, **SHORT_LEASE)


def test_a_device_that_cannot_be_read_for_a_while_costs_no_worker() -> None:
    probe = BlindProbe()

    async def test(bench: Bench) -> None:
        probe.blind = True
        await until(lambda: probe.refused > 3, "it is looked at")
        probe.blind = False
        assert (await bench.ended(bench.submit("quick"))).state is StepState.SUCCEEDED

    serve(test, probe=probe, gauges_every_s=0.01)


def test_a_host_without_room_for_a_standby_serves_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(bench: Bench) -> None:
        def refuse(*args: Any, **keywords: Any) -> SpawnedProcess:
            raise OSError("no more processes")

        await until(bench.children, "a runner waits")
        with monkeypatch.context() as full:
            full.setattr(runners_module, "SpawnedProcess", refuse)
            full.setattr(Templates, "fork_runner", refuse)
            first = await bench.ended(bench.submit("quick"))  # takes the one that waits
            job = bench.submit("quick")  # none waits, and none can be started
            await until(lambda: bench.step(job).losses > 0, lambda: bench.codes(job))
        second = await bench.ended(job)
        assert [first.state, second.state] == [StepState.SUCCEEDED] * 2
        assert first.losses == 0

    serve(test, standby=True)


def test_a_runner_that_cannot_be_watched_does_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError("no more descriptors")

    async def test(bench: Bench) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, "pidfd_open", refuse)
            with pytest.raises(OSError, match="descriptors"):
                await bench.runners.acquire(bench.slot.device, None)
        assert bench.children() == set()

    serve(test)


# The whole worker ---------------------------------------------------------------------------------


def test_a_supervisor_that_fails_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[list[psutil.Process]] = []
    honest = Supervisor.run

    async def run(supervisor: Supervisor) -> None:
        try:
            await honest(supervisor)
        finally:  # the locks are let go after this
            left.append([p for p in marked(supervisor.worker_id) if p.status() != "zombie"])

    monkeypatch.setattr(Supervisor, "run", run)

    async def fail_while_it_works() -> None:
        async with serving(runners.main, slots=2) as bench:
            await bench.in_state("free")
            for job in [bench.submit("forks 4"), bench.submit("polite")]:
                await bench.running(job)
            await until(lambda: len(bench.processes()) == 1 + 2 * 4 + 1, "all have forked")

            async def unforeseen(worker_id: UUID) -> set[UUID]:
                raise Unforeseen

            monkeypatch.setattr(bench.store, "requested_cancels", unforeseen)
            await anyio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as failed:
        anyio.run(fail_while_it_works)
    assert failed.group_contains(Unforeseen)
    assert left == [[]]


def test_a_kill_does_not_need_to_see_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor left to read /proc with: the runner is killed all the same."""

    async def test(bench: Bench) -> None:
        job = bench.submit("stuck_in_c")
        await bench.running(job)
        (process,) = bench.processes()
        tree = trees[process.pid]
        with monkeypatch.context() as patched:

            def blind(tree: ProcessTree) -> list[int]:
                raise OSError("no more descriptors")

            patched.setattr(ProcessTree, "scan", blind)
            with pytest.raises(OSError, match="descriptors"):
                tree.kill()
        await bench.ended(job)

    serve(test, max_attempts=1)
