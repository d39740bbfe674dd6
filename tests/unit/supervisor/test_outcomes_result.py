"""From a finished execution to the record for the database and the user."""

from __future__ import annotations

import signal
from typing import Any
from uuid import uuid4

import pytest
from tests.support.harness import timings_for_tests

from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Claim
from supervisor.devices.device import Reading
from supervisor.lifecycle.step import Step
from supervisor.outcomes.classify import Classification
from supervisor.outcomes.evidence import EvidenceRecorder
from supervisor.outcomes.result import VRAM_RETRY_S, build_result, error_of, retry_delay_s
from supervisor.slots.reclaim import ReclaimReading

FIGURES = {
    "gpu_mem_used_before": 1,
    "gpu_mem_used_after": 2,
    "peak_gpu_mem_used": 9,
    "reclaim_seconds": 0.2,
    "signals": ["SIGTERM"],
}
MESSAGE = "the runner ended without a result (SIGSEGV)"
CRASH = Classification(reason=Reason.RUNNER_CRASHED, message=MESSAGE, details={"exit": "SIGSEGV"})
TIMINGS = timings_for_tests(retry_base_s=2.0, retry_cap_s=60.0)


def claim(**changes: Any) -> Claim:
    usual: dict[str, Any] = {
        "step_id": uuid4(), "job_id": uuid4(), "user": "default", "epoch": 1,
        "lease_owner": uuid4(), "attempt": 0,
        "losses": 0, "cancel_requested": False, "vram_waited_s": 0.0, "name": "generate",
        "type": "generate", "params": {}, "count": 1, "preset": {}, "vram_bytes": 0,
        "timeout_s": 12.5, "model": None, "correlation_id": "",
    }  # fmt: skip
    return Claim(**(usual | changes))


def crashed() -> EvidenceRecorder:
    """The evidence of a runner that crashed, with the readings of `FIGURES`."""
    evidence = EvidenceRecorder()
    evidence.facts.exitcode = -signal.SIGSEGV
    evidence.before = Reading(total_bytes=16, used_bytes=1, free_bytes=15)
    after = Reading(total_bytes=16, used_bytes=2, free_bytes=14)
    evidence.reclaimed = ReclaimReading(now=after, leaked_bytes=0, seconds=0.2)
    evidence.record_memory(9)
    evidence.record_signal("SIGTERM")
    return evidence


def end(step: Step, **changes: Any) -> AttemptResult:
    return build_result(claim(**changes), step, crashed(), TIMINGS, None)


def codes(ending: AttemptResult) -> list[str]:
    return [str(event.code) for event in ending.events]


# Backoff ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tries", "most"), [(1, 2), (2, 4), (3, 8), (6, 60), (50, 60), (0, 2)])
def test_backoff_doubles_up_to_its_cap_and_uses_the_whole_range(tries: int, most: float) -> None:
    delays = [retry_delay_s(TIMINGS, tries) for _ in range(400)]
    assert all(0 <= delay <= most for delay in delays)
    assert min(delays) < most * 0.1
    assert max(delays) > most * 0.9


# Terminal -----------------------------------------------------------------------------------------


def test_success_has_no_error_and_its_figures_in_the_last_event() -> None:
    done = Step(state=StepState.SUCCEEDED, reason=Reason.COMPLETED, attempt=1)
    ending = end(done)
    assert (ending.state, ending.reason, ending.error) == (done.state, done.reason, None)
    assert codes(ending) == ["gpu.mem", "step.finish"]
    assert FIGURES.items() <= dict(ending.events[-1].payload or {}).items()
    assert ending.events[-1].level == "INFO"


def test_a_failure_carries_what_the_judgement_found_and_the_figures() -> None:
    ending = end(Step(state=StepState.FAILED, reason=Reason.RUNNER_CRASHED, attempt=1))
    assert ending.error == {
        "code": "runner_crashed",
        "message": MESSAGE,
        "details": {"exit": "SIGSEGV"} | FIGURES,
    }
    assert ending.events[-1].level == "ERROR"


@pytest.mark.parametrize("reason", [Reason.OOM, Reason.HOST_OOM, Reason.INSUFFICIENT_VRAM])
def test_a_want_of_memory_comes_with_numbers_and_what_would_help(reason: Reason) -> None:
    ending = end(Step(state=StepState.FAILED, reason=reason, attempt=1), vram_bytes=5)
    memory = {"need_bytes": 5, "peak_bytes": 9, "available_bytes": 15}
    details = (ending.error or {})["details"]
    assert memory.items() <= details.items()
    assert details["recommendation"] == "try fewer pixels"


def test_our_own_reason_has_our_own_words() -> None:
    error = error_of(claim(), Reason.TIMEOUT, CRASH)
    assert error["message"] == "the step ran longer than its timeout of 12.5 s and was stopped"
    assert error["details"] == {"exit": "SIGSEGV"}


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.ATTEMPTS_EXHAUSTED}))
def test_every_reason_makes_an_error_in_words(reason: Reason) -> None:
    error = error_of(claim(), reason, CRASH)
    assert error["code"] == reason
    assert "{" not in error["message"]


def test_what_is_given_up_names_its_last_error() -> None:
    given_up = Step(
        state=StepState.FAILED,
        reason=Reason.ATTEMPTS_EXHAUSTED,
        last_reason=Reason.RUNNER_CRASHED,
        attempt=3,
        losses=1,
    )
    error = end(given_up).error or {}
    assert error["code"] == "attempts_exhausted"
    assert error["details"]["last_error"]["details"] == {"exit": "SIGSEGV"}
    assert (error["details"]["attempts"], error["details"]["losses"]) == (3, 1)


# Back to the queue --------------------------------------------------------------------------------


def test_a_charged_retry_waits_and_says_why() -> None:
    step = Step(state=StepState.QUEUED, attempt=2, last_reason=Reason.RUNNER_CRASHED)
    ending = end(step, attempt=1)
    assert ending.reason is None
    assert 0 <= ending.delay_s <= 4
    retry = dict(ending.events[-1].payload or {})
    assert retry["reason"] == "runner_crashed"
    assert retry["last_error"] == ending.error
    assert (ending.error or {})["code"] == "runner_crashed"


def test_an_uncharged_retry_does_not_wait() -> None:
    ending = end(Step(state=StepState.QUEUED, last_reason=Reason.DRAINED))
    assert (ending.delay_s, ending.error) == (0.0, None)
    assert codes(ending)[-1] == "retry"


def test_a_try_that_goes_back_to_the_queue_says_what_its_device_held_as_well() -> None:
    ending = end(Step(state=StepState.QUEUED, attempt=1, last_reason=Reason.RUNNER_CRASHED))
    assert codes(ending) == ["gpu.mem", "retry"]
    assert ending.events[0].payload == {"at": "end", **FIGURES}


def test_waiting_for_memory_is_said_once() -> None:
    waits = Step(state=StepState.QUEUED, vram_wait=True)
    first, later = end(waits), end(waits, vram_waited_s=3.0)
    assert first.delay_s == later.delay_s == VRAM_RETRY_S
    assert first.vram_wait
    assert (codes(first), codes(later)) == (["retry"], [])
