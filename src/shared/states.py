"""The words that the database, the state machine and the API share. Enums and mappings only.

The stored fact about an ended step is its *termination reason*; the public status is derived from
the stored state (`STATUS_OF`), never stored twice in different words.
"""

from enum import StrEnum

# Steps and workers have a queue column. There is one queue.
DEFAULT_QUEUE = "default"


class Priority(StrEnum):
    """What a client says of a job's urgency. The order of the members is that of the claim."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class DeliveryState(StrEnum):
    """Of a webhook."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"  # given up; an operator may send it again


class StepState(StrEnum):
    """Where a step is on its way; `supervisor.lifecycle.table` has the moves between them."""

    PENDING = "pending"  # waits for its predecessor in the chain
    QUEUED = "queued"  # may be claimed
    LEASED = "leased"  # a worker owns it and prepares its runner
    RUNNING = "running"  # GO was sent
    STOPPING = "stopping"  # its processes are ending, or are being ended
    RECLAIMING = "reclaiming"  # its processes are gone, its memory is being verified
    PUBLISHING = "publishing"  # the slot has its verdict, artifacts are being stored
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OWNED = frozenset(
    {
        StepState.LEASED,
        StepState.RUNNING,
        StepState.STOPPING,
        StepState.RECLAIMING,
        StepState.PUBLISHING,
    }
)
TERMINAL = frozenset({StepState.SUCCEEDED, StepState.FAILED, StepState.CANCELLED})


class Status(StrEnum):
    """What the API says of a job or a step."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
STATUS_OF: dict[StepState, Status] = {
    StepState.PENDING: Status.QUEUED,
    StepState.QUEUED: Status.QUEUED,
    StepState.LEASED: Status.QUEUED,
    StepState.RUNNING: Status.RUNNING,
    StepState.STOPPING: Status.RUNNING,
    StepState.RECLAIMING: Status.RUNNING,
    StepState.PUBLISHING: Status.RUNNING,
    StepState.SUCCEEDED: Status.SUCCEEDED,
    StepState.FAILED: Status.FAILED,
    StepState.CANCELLED: Status.CANCELLED,
}


class Reason(StrEnum):
    """Why a step, or the job that it decided, ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    OOM = "oom"
    HOST_OOM = "host_oom"
    INSUFFICIENT_VRAM = "insufficient_vram"
    MODEL_UNAVAILABLE = "model_unavailable"
    PROVIDER_ERROR = "provider_error"
    RUNNER_CRASHED = "runner_crashed"
    GPU_UNHEALTHY = "gpu_unhealthy"
    LEASE_LOST = "lease_lost"
    INFRA_UNAVAILABLE = "infra_unavailable"
    DRAINED = "drained"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    INTERNAL = "internal"


def status_of(reason: Reason) -> Status:
    """How a job ended that ended for this reason."""
    return {Reason.COMPLETED: Status.SUCCEEDED, Reason.CANCELLED: Status.CANCELLED}.get(
        reason, Status.FAILED
    )


# Reasons after which the same work may well succeed elsewhere or later. The others would fail
# again in the same way, and a second try would only cost GPU time.
TRANSIENT = frozenset(
    {
        Reason.RUNNER_CRASHED,
        Reason.GPU_UNHEALTHY,
        Reason.LEASE_LOST,
        Reason.INFRA_UNAVAILABLE,
        Reason.DRAINED,
    }
)
