"""Where runners come from: one that stands by, used once, or a fresh one."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from tests.support.harness import Bench, serve, until
from tests.support.runner_starts import runner_start  # noqa: F401 - each test, both ways

from shared.linux.child import MARKER
from shared.states import StepState
from supervisor.devices.device import Device
from supervisor.processes.child import ChildProcess
from supervisor.processes.tree import trees
from supervisor.processes.worker_mark import marker_of
from supervisor.slots.table import SlotState
from supervisor.templates.model_template import WantedModel


def test_a_standby_is_used_once_and_replaced() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.processes()) == 1, "a standby")
        (first,) = bench.processes()
        job = bench.submit("polite")
        await bench.running(job)
        assert bench.processes() == [first]
        bench.store.request_cancel(job)
        await bench.ended(job)
        await until(lambda: set(bench.processes()) - {first}, "another standby")
        await until(lambda: first not in bench.processes(), "the first has gone")

    serve(test, standby=True)


def test_a_standby_is_started_after_the_verdict_where_no_step_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(bench: Bench) -> None:
        prewarmed: list[Device] = []
        monkeypatch.setattr(bench.runners, "prewarm", prewarmed.append)
        verdict = bench.store.faults.hold("finish")
        job = bench.submit("quick")
        await verdict.reached.wait()
        assert bench.slot.state is SlotState.FREE
        assert prewarmed == []
        verdict.release()
        await bench.ended(job)
        await until(lambda: prewarmed == [bench.slot.device], "a standby")

    serve(test)


def test_a_claim_that_is_under_way_at_the_end_of_a_step_keeps_no_standby_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(bench: Bench) -> None:
        prewarmed: list[Device] = []
        monkeypatch.setattr(bench.runners, "prewarm", prewarmed.append)
        verdict = bench.store.faults.hold("finish")
        job = bench.submit("quick")
        await verdict.reached.wait()
        claim = bench.store.faults.hold("claim")
        await claim.reached.wait()
        assert bench.slot.state is SlotState.HELD
        verdict.release()
        await bench.ended(job)
        await until(lambda: prewarmed == [bench.slot.device], "a standby")
        claim.release()

    serve(test, standby=True)


def test_a_step_that_is_due_waits_for_no_verdict() -> None:
    async def test(bench: Bench) -> None:
        verdict = bench.store.faults.hold("finish")
        first, second = bench.submit("quick"), bench.submit("quick")
        await bench.reaches(second, StepState.RUNNING)
        assert bench.job(first).reason is None
        verdict.release()
        await bench.ended(first)
        await bench.ended(second)

    serve(test)


def test_a_step_that_comes_while_a_verdict_is_written_is_claimed() -> None:
    async def test(bench: Bench) -> None:
        verdict = bench.store.faults.hold("finish")
        first = bench.submit("quick")
        await verdict.reached.wait()
        second = bench.submit("quick")
        await bench.reaches(second, StepState.RUNNING)
        assert bench.job(first).reason is None
        verdict.release()
        await bench.ended(first)
        await bench.ended(second)

    serve(test)


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
        assert {
            "LC_TIME=C",
            "CUDA_VISIBLE_DEVICES=",
            f"{MARKER}={marker_of(runner.pid)}",
            "GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
        } <= set(born)
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


def test_a_standby_that_was_stopped_is_not_used() -> None:
    async def test(bench: Bench) -> None:
        await until(lambda: len(bench.processes()) == 1, "a standby")
        (standby,) = bench.processes()
        standby.suspend()
        await until(lambda: is_stopped_or_gone(standby), "it is stopped")
        step = await bench.ended(bench.submit("quick"))
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 1, 0)

    serve(test, standby=True)


def test_a_tree_that_was_proven_gone_is_forgotten_whoever_appears_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(bench: Bench) -> None:
        runner = await bench.runners.acquire(bench.slot.device, None)
        runner.tree.kill()
        await runner.wait_gone()
        monkeypatch.setattr(runner.tree, "is_gone", lambda: False)  # an orphan that nobody knows
        runner.close()
        assert runner.pid not in trees

    serve(test)


def is_stopped_or_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True


def test_a_host_that_cannot_start_a_process_costs_a_loss_and_no_worker() -> None:
    async def test(bench: Bench) -> None:
        take, failures = bench.runners.acquire, [OSError("no more processes")]

        async def fail_once(
            device: Device, wanted: WantedModel | None, *, need_bytes: int = 0
        ) -> ChildProcess:
            if failures:
                raise failures.pop()
            return await take(device, wanted, need_bytes=need_bytes)

        bench.runners.acquire = fail_once  # type: ignore[method-assign]
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
