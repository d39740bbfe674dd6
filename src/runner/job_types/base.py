"""What a job type is: the interface behind which a remote provider could be plugged in as well.

`prepare` loads, `run` emits pictures and returns how many, `cleanup` drops every reference. A job
type speaks only through `emit`, in the messages of `shared.protocol.messages`, and gets the
pictures of the step before it through `Context.inputs`. The flow around it (lease, stop, memory,
classification) is `runner.session`, which knows no job type. `INTERFACE` is the version of all
this; docs/job-types.md describes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from runner.images.sender import ImageSender
from runner.ipc.channel import Emit
from runner.ipc.inputs import Inputs
from runner.ipc.previews import PreviewRequests
from runner.process.cancellation import Stop
from shared.protocol.messages import Progress, Stage, StepSpec

SpecT = TypeVar("SpecT", bound=StepSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context(Generic[SpecT]):
    """What a job may know and use besides its parameters."""

    spec: SpecT
    emit: Emit
    stop: Stop
    versions: dict[str, str]
    inputs: Inputs
    previews: PreviewRequests


class Job(Protocol):
    """One job type. `Any` stands for its own spec and parameters, by which the table chooses it."""

    def prepare(self, ctx: Context[Any]) -> None:
        """Load what the step needs. Raises `ModelUnavailable` when the model's files are wrong."""

    def run(self, params: Any, emit: Emit) -> int:
        """Make the items that are not done yet; return how many were made.

        Raises `Cancelled` between two sampling steps after a stop was requested.
        """

    def cleanup(self) -> None:
        """Drop every reference to what `prepare` loaded. Called once, also after a failure."""


def run_items(ctx: Context[Any], count: int, make: Callable[[int], Callable[[], None]]) -> int:
    """Make the items that are not done yet; return how many.

    `make` makes the picture of one item and returns the call that encodes and sends it, which runs
    while the next one is made.
    """
    todo = [index for index in range(count) if index not in ctx.spec.done_items]
    with ImageSender() as sender:
        for index in todo:
            ctx.stop.check()
            sender.submit(index, make(index))
    return len(todo)


def item_progress(stage: Stage, index: int, step: int, steps: int) -> Progress:
    return Progress(stage=stage, item_index=index, step=step, steps=steps)
