"""The interface of a loaded upscaler."""

from collections.abc import Callable, Sequence
from typing import Protocol

from PIL.Image import Image

from shared.protocol.messages import InputSpec, Log

# (done, total): tiles, or sampling steps. May raise to stop.
OnStep = Callable[[int, int], None]


class Upscaler(Protocol):
    """`name` is what metadata calls it; `remarks` are lines for the job's log, said once."""

    @property
    def name(self) -> str: ...

    @property
    def remarks(self) -> Sequence[Log]: ...

    def enlarge(self, image: Image, source: InputSpec, on_step: OnStep) -> Image:
        """`image` at the implementation's own scale, with its alpha if it has one."""
