"""A real supervisor against runners that misbehave, each in one way. Nothing here is a mock but the
database and the store.

After each of them: one verdict, with the right reason; no process left (`serving` asserts both);
the slot free, by proof; the figures of the step in its last event.
"""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support import runners
from tests.support.harness import Bench, serving, until
from tests.support.places import CPU
from tests.support.runner_starts import runner_start  # noqa: F401 - each test, both ways

from shared.events import Code
from shared.protocol.frames import encode
from shared.states import Reason, StepState
from supervisor.execution import device_monitor
from supervisor.processes import channel
from supervisor.processes.child import Entry
from supervisor.processes.tree import ProcessTree
from supervisor.recording.event_recorder import EventRecorder

# Stay until they are ended, a second or more after they took what they hold.
LASTING = {"stuck_in_c", "spins", "forks", "bomb", "chain_of_forks", "half_a_frame"}

PLACE = CPU  # `tests/gpu/test_gpu_hostile.py` puts another one here


def serve(
    test: Callable[[Bench], Awaitable[None]], entry: Entry | None = None, **options: Any
) -> None:
    """Run a test against a supervisor whose step is not tried again, unless the options say so."""
    options = {"max_attempts": 1, "max_losses": 1} | PLACE.options | options
    if "timeout_s" in options:
        options["timeout_s"] += PLACE.begin_s

    async def main() -> None:
        probe = None if PLACE.probe is None else PLACE.probe()
        try:
            async with serving(entry or PLACE.entry, probe=probe, **options) as bench:
                await bench.begun()
                await test(bench)
        finally:
            if probe is not None:
                await probe.close()

    anyio.run(main)


async def end(bench: Bench, prompt: str, **work: Any) -> Any:
    """Run one step to its verdict and check what is true of every one. Returns its job's id."""
    job = bench.submit(prompt, **work)
    await bench.ended(job)
    await bench.in_state("free")
    figures = bench.payload(job, Code.STEP_FINISH)
    before = figures["gpu_mem_used_before"]
    peak = figures["peak_gpu_mem_used"]
    assert figures["gpu_mem_used_after"] <= before + PLACE.epsilon_bytes
    if not PLACE.shared:
        assert before == 0 < peak
    elif prompt.partition(" ")[0] in LASTING:
        assert peak > before
    else:  # over before it could be seen, perhaps
        assert peak >= before
    assert figures["reclaim_seconds"] >= 0
    assert figures["signals"] == bench.signals(job)
    assert dict(bench.events(job, Code.GPU_MEM)[-1].payload or {}).items() <= {
        "at": "end", **figures,
    }.items()  # fmt: skip
    assert "gpu.reclaimed" in bench.codes(job)
    assert "gpu.not_reclaimed" not in bench.codes(job)
    return job


def last_error(bench: Bench, job: Any) -> dict[str, Any]:
    """What ended the last try: a transient reason of a step without tries left is wrapped."""
    error = bench.step(job).error
    assert error is not None
    if error["code"] == Reason.ATTEMPTS_EXHAUSTED:
        inner: dict[str, Any] = error["details"]["last_error"]
        return inner
    return error


# Good ends ----------------------------------------------------------------------------------------


def test_a_good_step_succeeds_without_a_signal() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "quick", count=3)
        assert bench.step(job).reason is Reason.COMPLETED
        assert sorted(index for _, index in bench.job(job).artifacts) == [0, 1, 2]
        assert {a.s3_key for a in bench.job(job).artifacts.values()} == set(bench.objects.objects)
        assert bench.signals(job) == []

    serve(test)


def test_good_work_is_kept_when_the_runner_will_not_leave() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "slow_exit 3600")
        assert bench.step(job).reason is Reason.COMPLETED
        assert bench.signals(job) == ["SIGTERM"]

    serve(test, exit_grace_s=0.1)


@pytest.mark.parametrize(
    "prompt",
    [
        "leaves_grandchild",
        "leaves_talker",
        "leaves_nameless_grandchild",
        "leaves_forged_grandchild",
    ],
)
def test_a_grandchild_in_another_session_does_not_outlive_its_step(prompt: str) -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, prompt)
        assert bench.step(job).reason is Reason.COMPLETED
        assert bench.signals(job)[0] == "SIGTERM"

    serve(test, exit_grace_s=0.1)


def test_a_chain_of_forks_each_dead_when_it_is_looked_at_is_ended(tmp_path: Path) -> None:
    lock = tmp_path / "held-by-whoever-lives"

    async def test(bench: Bench) -> None:
        job = await end(bench, f"leaves_hopper {lock}")
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it
        assert bench.step(job).reason is Reason.COMPLETED

    serve(test, exit_grace_s=0.1, kill_deadline_s=20.0, reclaim_deadline_s=20.0)


def test_what_a_runner_writes_to_its_streams_is_logged_as_its_own(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "writes_to_its_streams")
        assert bench.step(job).reason is Reason.COMPLETED
        (record,) = [r for r in caplog.records if "forged" in r.getMessage()]
        assert record.getMessage().startswith("a child wrote: ")
        assert record.__dict__["job_id"] == str(job)

    serve(test)
    assert "forged" not in capfd.readouterr().out
    assert os.get_blocking(2)


def test_a_grandchild_that_is_deaf_to_sigterm_is_killed() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "leaves_deaf_grandchild")
        assert bench.step(job).reason is Reason.COMPLETED
        assert bench.signals(job) == ["SIGTERM", "SIGKILL"]

    serve(test, exit_grace_s=0.1)


def test_memory_of_a_grandchild_counts_as_the_steps_own() -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("leaves_grandchild")
        await bench.ended(job)
        peak = bench.payload(job, Code.STEP_FINISH)["peak_gpu_mem_used"]
        assert peak >= runners.HELD_BYTES

    serve(test, exit_grace_s=1.0)


# Runners that ignore signals ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["stuck_in_c", "spins", "forks 6", "bomb 8", "chain_of_forks 30"]
)
def test_a_deaf_runner_is_killed_after_its_timeout(prompt: str) -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, prompt)
        assert bench.step(job).reason is Reason.TIMEOUT
        assert last_error(bench, job)["details"]["peak_gpu_mem_used"] > 0
        assert bench.signals(job)[-1] == "SIGKILL" or prompt.startswith("chain")

    serve(test, timeout_s=0.5)


@pytest.mark.parametrize("prompt", ["stuck_in_c", "polite", "forks 4"])
def test_a_cancelled_step_ends_as_cancelled(prompt: str) -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit(prompt)
        await bench.running(job)
        bench.store.request_cancel(job)
        await bench.ended(job)
        await bench.in_state("free")
        assert bench.step(job).reason is Reason.CANCELLED
        assert bench.step(job).state is StepState.CANCELLED

    serve(test)


def test_the_cancel_is_written_and_each_signal_noted_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    note, terminate, kill = EventRecorder.record, ProcessTree.terminate, ProcessTree.kill

    def written(header: dict[str, Any], body: bytes = b"") -> bytes:
        if header.get("type") == "cancel":
            order.append("wrote cancel")
        return encode(header, body)

    def noted(recorder: EventRecorder, code: Code, message: str, **facts: Any) -> Any:
        if code is Code.SIGNAL_SENT:
            order.append(f"noted {facts['signal']}")
        return note(recorder, code, message, **facts)

    def terminated(tree: ProcessTree) -> None:
        order.append("sent SIGTERM")
        terminate(tree)

    def killed(tree: ProcessTree) -> None:
        order.append("sent SIGKILL")
        kill(tree)

    async def test(bench: Bench) -> None:
        monkeypatch.setattr(channel, "encode", written)
        monkeypatch.setattr(EventRecorder, "record", noted)
        monkeypatch.setattr(ProcessTree, "terminate", terminated)
        monkeypatch.setattr(ProcessTree, "kill", killed)
        await end(bench, "stuck_in_c")
        term = ["wrote cancel", "noted SIGTERM", "sent SIGTERM"]
        assert order == [*term, "noted SIGKILL", "sent SIGKILL"]

    serve(test, timeout_s=0.3)


def test_intent_is_on_record_before_memory_is_back() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "stuck_in_c")
        codes = bench.codes(job)
        assert bench.signals(job) == ["SIGTERM", "SIGKILL"]
        assert codes.index("step.start") < codes.index("signal.sent")
        last_signal = len(codes) - 1 - codes[::-1].index("signal.sent")
        assert last_signal < codes.index("gpu.reclaimed") < codes.index("step.finish")

    serve(test, timeout_s=0.3)


# Runners that break the protocol ------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        "garbage",
        "not_json",
        "too_long",
        "header_too_long",
        "out_of_order",
        "unstorable_log",
        "wrong_hash",
        "says_huge_numbers log",
        "says_huge_numbers result",
        "closes_its_end",
    ],
)
def test_a_runner_that_breaks_the_protocol_is_ended_at_once(prompt: str) -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, prompt)
        assert last_error(bench, job)["code"] == Reason.RUNNER_CRASHED
        assert bench.signals(job)[0] == "SIGTERM"
        assert bench.step(job).attempt == 1

    serve(test)


@pytest.mark.parametrize("entry", [runners.talks_before_ready, runners.works_before_go])
def test_a_runner_that_speaks_out_of_turn_before_go_costs_a_loss(entry: Entry) -> None:
    async def test(bench: Bench) -> None:
        bench.store.faults.hold("commit_running")  # or its words may come after GO after all
        job = await end(bench, "-")
        assert last_error(bench, job)["code"] == Reason.RUNNER_CRASHED
        assert bench.step(job).losses == 1

    serve(test, entry)


def test_half_a_frame_is_waited_for_until_the_timeout() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "half_a_frame")
        assert bench.step(job).reason is Reason.TIMEOUT

    serve(test, timeout_s=0.5)


def test_half_a_frame_from_a_killed_runner_is_a_crash_and_needs_no_signal() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "half_a_frame_then_dies")
        error = last_error(bench, job)
        assert error["code"] == Reason.RUNNER_CRASHED
        assert error["details"]["exit"] == "SIGKILL"
        assert "inside a frame" in error["details"]["protocol"]
        assert bench.signals(job) == []

    serve(test)


def test_a_flood_of_logs_stops_neither_the_timeout_nor_a_neighbour() -> None:
    async def test(bench: Bench) -> None:
        flood, neighbour = bench.submit("floods"), bench.submit("quick")
        await bench.ended(neighbour)
        await bench.ended(flood)
        await bench.in_state("free")
        assert bench.step(neighbour).reason is Reason.COMPLETED
        assert bench.step(flood).reason is Reason.TIMEOUT
        dropped = bench.events(flood, Code.LOGS_DROPPED)
        assert 1 <= len(dropped) < 20
        assert len(bench.events(flood, Code.RUNNER_LOG)) <= 20 * (len(dropped) + 2)

    serve(test, timeout_s=1.5, slots=2)


def test_threads_without_end_cost_their_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_monitor, "MAX_THREADS", 100)

    async def test(bench: Bench) -> None:
        bomb, neighbour = bench.submit("starts_threads 200"), bench.submit("polite")
        step = await bench.ended(bomb)
        assert step.reason is Reason.ATTEMPTS_EXHAUSTED
        error = (step.error or {})["details"]["last_error"]
        assert error["code"] == Reason.RUNNER_CRASHED
        assert "threads" in error["details"]["protocol"]
        await bench.running(neighbour)
        bench.store.request_cancel(neighbour)
        await bench.ended(neighbour)

    serve(test, slots=2, max_losses=1, max_attempts=1)


# Early ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "exit_words"),
    [
        ("leaves_early", "exit code 0"),
        ("segfaults", "SIGSEGV"),
    ],
)
def test_an_end_without_a_result_is_a_crash_that_says_how(prompt: str, exit_words: str) -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, prompt)
        error = last_error(bench, job)
        assert error["code"] == Reason.RUNNER_CRASHED
        assert error["details"]["exit"].startswith(exit_words)
        assert bench.signals(job) == []

    serve(test)


def test_a_runner_killed_from_outside_is_a_crash() -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("polite")
        await bench.running(job)
        (process,) = bench.processes()
        process.send_signal(signal.SIGKILL)
        await bench.ended(job)
        await bench.in_state("free")
        assert last_error(bench, job)["details"]["exit"] == "SIGKILL"

    serve(test)


def test_a_runner_that_runs_out_of_host_memory_says_so_and_is_not_tried_again() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "allocates_until_refused")
        assert bench.step(job).reason is Reason.HOST_OOM
        assert bench.step(job).attempt == 1
        peak = bench.payload(job, Code.STEP_FINISH)["peak_gpu_mem_used"]
        assert peak > runners.ADDRESS_SPACE_BYTES // 4

    serve(test, max_attempts=3)


@pytest.mark.parametrize("reason", ["oom", "host_oom", "model_unavailable", "provider_error"])
def test_an_error_frame_decides_the_reason(reason: str) -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, f"fails {reason}")
        assert bench.step(job).reason == reason
        assert bench.step(job).attempt == 1

    serve(test, max_attempts=3)


@pytest.mark.parametrize("times", [0.5, 1000])
def test_the_peak_of_a_failed_step_is_the_runners_own_if_that_is_possible(times: float) -> None:
    async def test(bench: Bench) -> None:
        total = bench.slot.device.total_bytes
        job = await end(bench, f"fails oom {int(total * times)}")
        expected = min(total, int(total * times))
        assert bench.payload(job, Code.STEP_FINISH)["peak_gpu_mem_used"] == expected
        assert last_error(bench, job)["details"]["peak_bytes"] == expected

    serve(test)


def test_a_runner_that_says_cancelled_when_nobody_cancelled_has_crashed() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "fails cancelled")
        assert last_error(bench, job)["code"] == Reason.RUNNER_CRASHED

    serve(test)


def test_a_runner_that_never_gets_ready_is_killed_and_costs_a_loss() -> None:
    async def test(bench: Bench) -> None:
        job = await end(bench, "-")
        assert last_error(bench, job)["code"] == Reason.RUNNER_CRASHED
        assert (bench.step(job).attempt, bench.step(job).losses) == (0, 1)

    serve(test, runners.never_ready, ready_timeout_s=0.5)


def test_a_runner_that_dies_before_ready_costs_a_loss() -> None:
    async def test(bench: Bench) -> None:
        job = bench.submit("-")
        await bench.ended(job)
        await bench.in_state("free")
        assert last_error(bench, job)["details"]["exit"] == "exit code 7"
        assert (bench.step(job).attempt, bench.step(job).losses) == (0, 2)

    serve(test, runners.dies_at_once, max_losses=2)


def test_two_slots_serve_two_steps_at_once() -> None:
    async def test(bench: Bench) -> None:
        jobs = [bench.submit("polite"), bench.submit("polite")]
        for job in jobs:
            await bench.running(job)
        assert {slot.state for slot in bench.slots} == {"held"}
        assert len(bench.processes()) == 2
        bench.store.request_cancel(jobs[0])
        await bench.ended(jobs[0])
        await until(lambda: len(bench.processes()) == 1, "the neighbour lives on")
        assert bench.step(jobs[1]).state is StepState.RUNNING
        bench.store.request_cancel(jobs[1])
        await bench.ended(jobs[1])

    serve(test, slots=2)
