"""Why an execution ended, from the evidence. One function, one order (DESIGN §5).

The order is from what we know to what we infer. Our own intent comes first of all, but not here:
the state machine keeps it. Then a finished result; what we ourselves could not read or send; the
kernel's own out-of-memory counter, since a killed process cannot say why; the runner's own report;
the device's health; and last the exit status. The *text* of an error decides nothing: "CUDA error"
is not "out of memory", and a matching word in a traceback has misled more than one scheduler.
"""

import signal
from dataclasses import dataclass, field
from typing import Any

from shared.errors import InfraUnavailable
from shared.protocol.messages import Failure
from shared.states import Reason


class InputUnavailable(InfraUnavailable):
    """A picture of the step before cannot be sent to the runner; `details` name the object."""


@dataclass(kw_only=True, slots=True)
class Evidence:
    """What is known of one execution. Each part of it sets the facts that it learns."""

    result: bool = False
    failure: Failure | None = None
    # How many more than at its start: in the runner's group, else in the worker's.
    cgroup_oom_kills: int = 0
    cgroup_limit_bytes: int | None = None  # of the runner's own group, where it hit that
    we_killed: bool = False  # a SIGKILL of its wait status is ours
    device_lost: bool = False
    exitcode: int | None = None  # None: it never started, or would not die
    lease_over: bool = False  # when it ended, the moment of its lease timer had passed
    protocol_error: str | None = None
    unreadable: str | None = None  # the stored step could not even be read
    input_unavailable: InputUnavailable | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """The reason, a message for the job's error, and details for a machine."""

    reason: Reason
    message: str
    details: dict[str, Any] = field(default_factory=dict)


def classify(evidence: Evidence) -> Classification:
    """The first explanation that the evidence supports."""
    if evidence.result:
        return Classification(Reason.COMPLETED, "completed")
    if evidence.unreadable is not None:
        return Classification(Reason.INTERNAL, evidence.unreadable)
    if (error := evidence.input_unavailable) is not None:
        return Classification(Reason.INFRA_UNAVAILABLE, error.message, error.details)
    details: dict[str, Any] = {"exit": _describe_end(evidence)}
    if _killed_for_memory(evidence):
        return _out_of_memory(evidence, details)
    failure = evidence.failure
    # "cancelled" answers our own cancel, which may have been for the device's sake.
    if failure is not None and (failure.reason != "cancelled" or not evidence.device_lost):
        return Classification(Reason(failure.reason), failure.message, dict(failure.details))
    if evidence.device_lost:
        message = "the GPU stopped answering while the step ran"
        return Classification(Reason.GPU_UNHEALTHY, message, details)
    if evidence.protocol_error is not None:
        details["protocol"] = evidence.protocol_error
    message = f"the runner ended without a result ({details['exit']})"
    return Classification(Reason.RUNNER_CRASHED, message, details)


def _out_of_memory(evidence: Evidence, details: dict[str, Any]) -> Classification:
    details["oom_kills"] = evidence.cgroup_oom_kills
    message = "the host's memory ran out and the kernel killed the runner"
    if evidence.cgroup_limit_bytes is not None:
        details["limit_bytes"] = evidence.cgroup_limit_bytes
        message = (
            "the step took more of the host's memory than its slot has, so the kernel ended it"
        )
    return Classification(Reason.HOST_OOM, message, details)


def _killed_for_memory(evidence: Evidence) -> bool:
    """Whether the kernel killed this very runner for memory.

    Without a group of its own the counter is that of the worker's, which all slots share: when it
    rises, some process was killed. It was this runner only if it ended by a SIGKILL that we did not
    send. The runners of two slots may both have been killed.
    """
    return (
        evidence.cgroup_oom_kills > 0 and _killed_by_another(evidence) and not evidence.lease_over
    )


def _killed_by_another(evidence: Evidence) -> bool:
    return evidence.exitcode == -signal.SIGKILL and not evidence.we_killed


def _describe_end(evidence: Evidence) -> str:
    text = describe_exit(evidence.exitcode)
    if _killed_by_another(evidence) and evidence.lease_over:
        return f"{text}: its own lease timer fired, the lease was not renewed in time"
    return text


def describe_exit(exitcode: int | None) -> str:
    """An exit status in words."""
    if exitcode is None:
        return "no exit status"
    if exitcode >= 0:
        return f"exit code {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"
