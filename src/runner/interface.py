"""What a job type is, and the interface behind which a remote provider could be plugged in.

`prepare` loads, `run` emits artifacts and returns how many, `cleanup` drops every reference. A job
type speaks only through `emit`, in the messages of `shared.messages`. The flow around it (lease,
stop, hygiene, classification) is `runner.session` and knows no job type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runner.stopping import Stop
from shared.messages import FromRunner, GenerateParams, RunSpec

INTERFACE_VERSION = 1


class Emit(Protocol):
    """Send one message to the worker; `body` is an artifact's encoded image."""

    def __call__(self, message: FromRunner, body: bytes = b"") -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What a job may know and use besides its parameters."""

    spec: RunSpec
    emit: Emit
    stop: Stop
    versions: dict[str, str]


class Job(Protocol):
    def prepare(self, ctx: Context) -> None:
        """Load what the step needs. Raises `ModelUnavailable` when the model's files are wrong."""

    def run(self, params: GenerateParams, emit: Emit) -> int:
        """Make the items that are not done yet; return how many were made.

        Raises `Cancelled` between two sampling steps when a stop was asked for.
        """

    def cleanup(self) -> None:
        """Drop every reference to what `prepare` loaded. Called once, also after a failure."""
