"""What is known of a network that is no pipeline, and which tensors' names do not tell here.

`runner.network_check` finds it out with libraries that only a runner has. An ESRGAN is
recognised without them (`shared.models.esrgan`).
"""

from importlib.util import find_spec
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LIBRARY = "spandrel"
# How many times as large a side may become. One: it restores a picture and enlarges nothing.
MAX_SCALE = 8
Scale = Annotated[int, Field(ge=1, le=MAX_SCALE)]
Architecture = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}$")]


class Network(BaseModel):
    """A network that turns a picture into a picture: spandrel's name of its kind, and its scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Architecture
    scale: Scale


class NetworkAnswer(BaseModel):
    """What a file is, as one process says it to another: a network, or why it is none of use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Network | None = None
    refused: str = ""
    recognised: bool = True


def can_run_networks() -> bool:
    """Whether the libraries for networks are installed, by their files: nothing is imported."""
    return find_spec(LIBRARY) is not None
