"""Why a try ended: from what we know to what we infer, in one order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.protocol.messages import Failure
from shared.states import Reason
from supervisor.outcomes.classify import Evidence, InputUnavailable, classify, describe_exit

FAILURE = Failure(reason="oom", message="no room", details={"peak": 5})

# Strongest first: each holds whatever of the later ones is true as well.
ORDER: list[tuple[dict[str, Any], Reason]] = [
    ({"result": True}, Reason.COMPLETED),
    ({"unreadable": "params: bad"}, Reason.INTERNAL),
    ({"input_unavailable": InputUnavailable("gone", item_index=0)}, Reason.INFRA_UNAVAILABLE),
    ({"cgroup_oom_kills": 1, "exitcode": -9}, Reason.HOST_OOM),
    ({"failure": FAILURE}, Reason.OOM),
    ({"device_lost": True}, Reason.GPU_UNHEALTHY),
    ({"failure": FAILURE.model_copy(update={"reason": "cancelled"})}, Reason.CANCELLED),
    ({"protocol_error": "garbage"}, Reason.RUNNER_CRASHED),
    ({"exitcode": -11}, Reason.RUNNER_CRASHED),
    ({}, Reason.RUNNER_CRASHED),
]


@pytest.mark.parametrize("rank", range(len(ORDER)))
def test_stronger_evidence_decides_whatever_weaker_there_is(rank: int) -> None:
    evidence = Evidence()
    for facts, _ in reversed(ORDER[rank:]):
        evidence = replace(evidence, **facts)
    assert classify(evidence).reason is ORDER[rank][1]


@pytest.mark.parametrize(
    "facts",
    [
        {"exitcode": -11},  # it ended by itself: the kernel killed a neighbour
        {"exitcode": 1},
        {"exitcode": None},
        {"exitcode": -9, "we_killed": True},
    ],
)
def test_a_neighbours_death_for_want_of_memory_is_not_this_steps(facts: dict[str, Any]) -> None:
    assert classify(Evidence(cgroup_oom_kills=1, **facts)).reason is Reason.RUNNER_CRASHED


def test_a_kill_from_outside_without_a_want_of_memory_is_a_crash() -> None:
    assert classify(Evidence(exitcode=-9)).reason is Reason.RUNNER_CRASHED


def test_the_text_of_an_error_decides_nothing() -> None:
    message = "CUDA error: out of memory"
    failure = Failure(reason="provider_error", message=message, details={})
    classification = classify(Evidence(failure=failure, exitcode=1, protocol_error=message))
    assert classification.reason is Reason.PROVIDER_ERROR
    assert classification.message == message


def test_a_crash_says_how_it_exited_and_what_was_wrong_with_what_it_said() -> None:
    classification = classify(Evidence(exitcode=-6, protocol_error="garbage"))
    assert classification.details == {"exit": "SIGABRT", "protocol": "garbage"}
    assert "SIGABRT" in classification.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "no exit status"),
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-9, "SIGKILL"),
        (-11, "SIGSEGV"),
        (-63, "signal 63"),
    ],
)
def test_an_exit_status_is_put_in_words(code: int | None, message: str) -> None:
    assert describe_exit(code) == message


def test_a_kill_after_the_end_of_the_lease_is_the_runners_own_timer_and_no_lack_of_memory() -> None:
    own = classify(Evidence(exitcode=-9, lease_over=True, cgroup_oom_kills=1))
    assert own.reason is Reason.RUNNER_CRASHED
    assert "lease timer fired" in own.message
    for other in (Evidence(exitcode=-9), Evidence(exitcode=-9, lease_over=True, we_killed=True)):
        assert classify(other).details["exit"] == "SIGKILL"
