"""What a job type is, and the interface behind which a remote provider could be plugged in.

`prepare` loads, `run` emits artifacts and returns how many, `cleanup` drops every reference. A job
type speaks only through `emit`, in the messages of `shared.protocol.messages`, and gets pictures
of the step
before it only through `Context.inputs`. The flow around it (lease, stop, memory, classification)
is `runner.session` and knows no job type.

The version of all this is `shared.protocol.messages.INTERFACE`; docs/job-types.md describes the
seam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from runner.ipc.channel import Emit
from runner.ipc.inputs import Inputs
from runner.process.cancellation import Stop
from shared.protocol.messages import StepSpec

SpecT = TypeVar("SpecT", bound=StepSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context(Generic[SpecT]):
    """What a job may know and use besides its parameters."""

    spec: SpecT
    emit: Emit
    stop: Stop
    versions: dict[str, str]
    inputs: Inputs


class Job(Protocol):
    """One job type. `Any` is its own spec and its own parameters, which the table goes by."""

    def prepare(self, ctx: Context[Any]) -> None:
        """Load what the step needs. Raises `ModelUnavailable` when the model's files are wrong."""

    def run(self, params: Any, emit: Emit) -> int:
        """Make the items that are not done yet; return how many were made.

        Raises `Cancelled` between two sampling steps when a stop was asked for.
        """

    def cleanup(self) -> None:
        """Drop every reference to what `prepare` loaded. Called once, also after a failure."""
