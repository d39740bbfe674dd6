"""Codes of the events that a job leaves behind, and how the stream names them.

An event is a fact in the `events` table with a per-job `seq`. Additions are free; a code that has
been released keeps its meaning.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID


class Code(StrEnum):
    JOB_CREATED = "job.created"
    STEP_CLAIMED = "step.claimed"
    STEP_START = "step.start"
    PROGRESS = "progress"
    ARTIFACT_WRITTEN = "artifact.written"
    RUNNER_LOG = "runner.log"
    LOGS_DROPPED = "logs.dropped"
    GPU_MEM = "gpu.mem"
    SIGNAL_SENT = "signal.sent"
    UNKILLABLE = "unkillable"
    GPU_RECLAIMED = "gpu.reclaimed"
    GPU_NOT_RECLAIMED = "gpu.not_reclaimed"
    GPU_FOREIGN = "gpu.foreign"
    CANCEL_REQUESTED = "cancel.requested"
    RETRY = "retry"
    LEASE_EXPIRED = "lease.expired"
    ERROR = "error"
    STEP_FINISH = "step.finish"
    JOB_FINISH = "job.finish"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEvent:
    """A fact to be recorded; its `seq` and time are given on insert."""

    code: str
    message: str
    level: str = "INFO"
    step_id: UUID | None = None
    item_index: int | None = None
    payload: dict[str, Any] | None = None


_STREAM_NAMES: dict[str, str] = {
    Code.PROGRESS: "progress",
    Code.ARTIFACT_WRITTEN: "artifact",
    Code.ERROR: "error",
}


def stream_name(code: str) -> str:
    """The SSE `event:` field for an event's code: `progress`, `artifact`, `error` or `log`."""
    return _STREAM_NAMES.get(code, "log")
