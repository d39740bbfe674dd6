"""A step that a worker owns, through cancels, drains, lost leases and retries. Real processes,
in-memory parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import runners
from tests.support.harness import SHORT_LEASE, Bench, serve, until
from tests.support.probes import LeakyProbe
from tests.support.runner_starts import runner_start  # noqa: F401 - each test, both ways

from shared.events import Code
from shared.linux.clock import boottime
from shared.states import Reason, StepState
from shared.step_store import Claim, ClaimRequest
from supervisor.devices.device import Device
from supervisor.processes.child import Entry

# Cancel, phase by phase ---------------------------------------------------------------------------


def test_a_cancel_before_ready_ends_the_step_uncharged() -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("-")
        await until(bench.processes, "a runner")
        bench.store.request_cancel(job)
        step = await bench.ended(job)
        assert (step.state, step.attempt, step.losses) == (StepState.CANCELLED, 0, 0)

    serve(test, runners.never_ready)


def test_a_cancel_does_not_wait_for_a_database_that_hangs() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.store.faults.hold("commit_running")
        job = bench.submit("quick")
        await hold.reached.wait()
        bench.store.request_cancel(job)
        step = await bench.ended(job)
        assert (step.state, step.attempt) == (StepState.CANCELLED, 0)
        assert bench.events(job, Code.STEP_START) == []

    serve(test)


def test_a_cancel_while_the_runner_leaves_keeps_good_work() -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("slow_exit 3600")
        await bench.reaches(job, "stopping")
        bench.store.request_cancel(job)
        step = await bench.ended(job)
        assert step.state is StepState.SUCCEEDED
        assert bench.signals(job) == ["SIGTERM"]

    serve(test, exit_grace_s=0.5)


def test_a_cancel_while_memory_is_verified_keeps_good_work() -> None:
    probe = LeakyProbe()

    async def test(bench: Bench) -> None:
        job = bench.submit("quick")
        await bench.reaches(job, "reclaiming")
        bench.store.request_cancel(job)
        await until(
            lambda: bench.store.faults.calls[-3:].count("requested_cancels"), "the cancel is seen"
        )
        probe.release()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED

    serve(test, probe=probe)


def test_a_cancel_while_images_are_stored_keeps_good_work_and_cancels_the_rest() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("put")
        job = bench.store.create(bench.work("quick"), bench.work("quick", name="second"))
        first, second = bench.store.steps_of(job)
        await until(lambda: "publishing" in first.history, "publishing")
        bench.store.request_cancel(job)
        hold.release()
        await bench.ended(job)
        assert first.state is StepState.SUCCEEDED
        assert second.state is StepState.CANCELLED

    serve(test)


def test_the_next_step_of_a_chain_runs_when_the_first_succeeded() -> None:
    async def test(bench: Bench) -> None:
        job = bench.chain("enlarges")
        await bench.ended(job)
        assert [step.state for step in bench.store.steps_of(job)] == [StepState.SUCCEEDED] * 2
        shown = [dict(e.payload or {})["progress"] for e in bench.events(job, Code.PROGRESS)]
        assert shown == sorted(shown)

    serve(test)


# Drain --------------------------------------------------------------------------------------------


def test_a_drain_lets_a_step_finish_in_its_time(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        job, late = bench.submit(f"waits_for {tmp_path / 'go'}"), bench.submit("quick")
        await bench.running(job)
        bench.supervisor.drain()
        (tmp_path / "go").touch()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        assert bench.step(late).history == [StepState.QUEUED]

    serve(test, drain_s=60.0)


def test_a_slot_that_becomes_free_during_a_drain_gets_no_standby(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit(f"waits_for {tmp_path / 'go'}")
        await bench.running(job)
        prewarmed: list[Device] = []
        monkeypatch.setattr(bench.runners, "prewarm", prewarmed.append)
        bench.supervisor.drain()
        (tmp_path / "go").touch()
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        await bench.in_state("free")
        assert prewarmed == []

    serve(test, drain_s=60.0, standby=True)


@pytest.mark.parametrize("entry", [runners.main, runners.never_ready])
def test_a_drain_gives_back_uncharged_what_it_must_stop(entry: Entry) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await until(bench.processes, "a runner")
        if entry is runners.main:
            await bench.running(job)
        bench.supervisor.drain()
        step = bench.step(job)
        await until(lambda: step.history[-1] is StepState.QUEUED and step.epoch, "back")
        assert (step.attempt, step.losses) == (0, 0)
        assert bench.payload(job, Code.RETRY)["reason"] == Reason.DRAINED

    serve(test, entry, drain_s=0.0)


# Leases -------------------------------------------------------------------------------------------


def test_a_lease_counts_from_when_the_claim_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(bench: Bench) -> None:
        claim, asked = bench.store.claim, []

        async def noted(request: ClaimRequest) -> Claim | None:
            asked.append(boottime())
            return await claim(request)

        monkeypatch.setattr(bench.store, "claim", noted)
        await until(lambda: asked, "no claim is under way that is not noted")
        job = bench.submit("polite")
        await bench.running(job)
        (executor,) = bench.supervisor.executors
        assert executor.execution.fence.dies_at - bench.timings.deadman_s <= asked[-1]
        bench.store.request_cancel(job)
        await bench.ended(job)

    serve(test)  # one slot, so the latest claim is the one that found it; no renewal comes so early


@pytest.mark.parametrize("how", ["away", "hangs"])
def test_a_runner_is_gone_before_the_lease_that_could_not_be_renewed_ends(how: str) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("stuck_in_c")
        await bench.running(job)
        with bench.store.faults.away("renew"):
            if how == "hangs":
                bench.store.faults.hold("renew")
            lease_ends = bench.step(job).lease_expires_at
            await until(lambda: not bench.processes(), "the runner is stopped")
            assert lease_ends is not None and bench.store.now() < lease_ends
            await bench.ended(job)
        error = bench.step(job).error or {}
        assert error["details"]["last_error"]["code"] == Reason.LEASE_LOST

    serve(test, max_attempts=1, **SHORT_LEASE)


def test_nothing_is_stored_past_the_fence_without_a_renewal() -> None:
    async def test(bench: Bench) -> None:
        with bench.store.faults.away("renew"), bench.objects.faults.away("put"):
            job = bench.submit("quick")
            await bench.reaches(job, "publishing")
            step = bench.step(job)
            fence = (step.lease_expires_at or 0) - bench.timings.lease_s + bench.timings.fence_s
            await until(lambda: bench.store.now() > fence, "past the fence")
        with bench.store.faults.away("renew"):  # the store is back, the right to write is not
            await bench.ended(job)
        assert bench.job(job).artifacts == {}
        assert bench.objects.objects == {}

    serve(test, max_losses=1, **SHORT_LEASE)


def test_a_stolen_step_is_stopped_and_nothing_is_written_about_it() -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await bench.running(job)
        bench.store.steal(bench.step(job).id)
        written = len(bench.job(job).events)
        await until(lambda: not bench.processes(), "the runner is stopped")
        await bench.in_state("free")
        assert len(bench.job(job).events) == written
        assert bench.step(job).state is StepState.RUNNING

    serve(test, lease_renew_s=0.1)


def test_an_image_of_a_stolen_step_is_taken_out_of_the_store_again() -> None:
    async def test(bench: Bench) -> None:
        hold = bench.objects.faults.hold("put:answer")
        job = bench.submit("quick")
        await hold.reached.wait()
        bench.store.steal(bench.step(job).id)
        assert len(bench.objects.objects) == 1
        hold.release()
        await until(lambda: not bench.objects.objects, "the object is withdrawn")
        assert bench.job(job).artifacts == {}

    serve(test)


def test_a_step_that_is_ours_again_is_still_looked_after_when_the_old_try_ends(
    tmp_path: Path,
) -> None:
    async def test(bench: Bench) -> None:
        hold = bench.store.faults.hold("finish:answer")
        job = bench.submit(f"crashes_once_then_waits {tmp_path / 'once'}")
        await hold.reached.wait()
        await bench.running(job)  # the second try, while the first waits for its answer
        hold.release()
        bench.store.request_cancel(job)
        assert (await bench.ended(job)).state is StepState.CANCELLED

    serve(test, slots=2)


# Retries ------------------------------------------------------------------------------------------


def test_a_crash_is_tried_again_until_it_works(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit(f"crashes 2 {tmp_path / 'count'}")
        step = await bench.ended(job)
        assert (step.state, step.attempt, step.losses) == (StepState.SUCCEEDED, 3, 0)
        retries = [dict(event.payload or {}) for event in bench.events(job, Code.RETRY)]
        assert [retry["attempt"] for retry in retries] == [1, 2]
        assert all(retry["delay_s"] <= bench.timings.retry_cap_s for retry in retries)

    serve(test)


def test_a_step_that_always_crashes_is_given_up_with_its_last_error(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit(f"crashes 9 {tmp_path / 'count'}")
        step = await bench.ended(job)
        assert (step.reason, step.attempt) == (Reason.ATTEMPTS_EXHAUSTED, 3)
        details = (step.error or {})["details"]
        assert details["attempts"] == 3
        assert details["last_error"]["details"]["exit"] == "exit code 3"

    serve(test)


def test_a_batch_keeps_what_it_had_finished_when_it_crashed(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        notes = tmp_path / "done"
        job = bench.submit(f"crashes_after 2 {notes}", count=4)
        assert (await bench.ended(job)).state is StepState.SUCCEEDED
        assert notes.read_text() == "0,1"
        written = [e.item_index for e in bench.events(job, Code.ARTIFACT_WRITTEN)]
        assert sorted(index for index in written if index is not None) == [0, 1, 2, 3]
        assert len(bench.objects.objects) == 4

    serve(test)
