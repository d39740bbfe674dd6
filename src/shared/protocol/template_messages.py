"""The messages between a worker and a template, inside `shared.protocol.frames`.

    worker                            template
      |  <------- prepared ----------  |   imported; one thread, no device open
      |  ---------- load ----------->  |   to a model template, once
      |  <-- loaded | refused -------  |
      |  ---------- fork ----------->  |   with two descriptors: the child's channel and output
      |  <-- forked | refused -------  |   the child's parent is the worker

One order at a time, and each has one answer. A template that cannot be forked from any more says
so with `unfit` and ends. A forked runner speaks `shared.protocol.messages` on its own channel.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from shared.protocol.messages import (
    Dtype,
    GanParams,
    GenerateSpec,
    Message,
    ModelSpec,
    ResampleParams,
    RunSpec,
    validated,
)

Loader = Literal["generate", "gan", "diffusion"]
# What a template forks: a runner, or a template that will hold a model.
Role = Literal["runner", "template"]


class HostModelSpec(Message):
    """A model as it lies in the memory of the host, ready for any preset with this dtype."""

    loader: Loader
    model: ModelSpec
    dtype: Dtype


def host_model_of(spec: RunSpec) -> HostModelSpec | None:
    """What a step loads onto the host; None when it needs no model."""
    if isinstance(spec, GenerateSpec):
        return HostModelSpec(loader="generate", model=spec.model, dtype=spec.preset.dtype)
    if spec.model is None or isinstance(spec.params, ResampleParams):
        return None
    loader: Loader = "gan" if isinstance(spec.params, GanParams) else "diffusion"
    return HostModelSpec(loader=loader, model=spec.model, dtype=spec.preset.dtype)


# The kernel gives no number above (PID_MAX_LIMIT, linux/threads.h).
MAX_PID = 1 << 22

# Worker to template -----------------------------------------------------------------------------


class Load(Message):
    type: Literal["load"] = "load"
    spec: HostModelSpec


class Fork(Message):
    """Comes with the descriptors of the child's channel and of its output, in this order."""

    type: Literal["fork"] = "fork"
    role: Role
    marker: str  # as long as the template's own: it is written over it
    environment: dict[str, str]


# Template to worker -----------------------------------------------------------------------------


class Prepared(Message):
    type: Literal["prepared"] = "prepared"


class Loaded(Message):
    type: Literal["loaded"] = "loaded"


class Forked(Message):
    type: Literal["forked"] = "forked"
    pid: int = Field(gt=0, le=MAX_PID)  # 0 and less name groups of processes


class Refused(Message):
    """The order was not carried out; after `unfit` the template ends.

    `unavailable`: the model's files are not as promised. `failed`: the host has no process or no
    memory left, or the load raised.
    """

    type: Literal["refused"] = "refused"
    reason: Literal["unfit", "unavailable", "failed"]
    message: str = Field(max_length=4096)


FromTemplate = Prepared | Loaded | Forked | Refused
ToTemplate = Load | Fork

_from_template: TypeAdapter[FromTemplate] = TypeAdapter(
    Annotated[FromTemplate, Field(discriminator="type")]
)
_to_template: TypeAdapter[ToTemplate] = TypeAdapter(
    Annotated[ToTemplate, Field(discriminator="type")]
)


def parse_from_template(header: dict[str, Any]) -> FromTemplate:
    """Validate a template's header; raise `FrameError` naming what is wrong."""
    return validated(_from_template, header)


def parse_to_template(header: dict[str, Any]) -> ToTemplate:
    """Validate a worker's header, in the template."""
    return validated(_to_template, header)
