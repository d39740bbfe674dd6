"""The interface of a loaded upscaler."""

from collections.abc import Callable
from typing import Protocol

from PIL.Image import Image

from shared.protocol.messages import InputSpec

# (done, total): tiles, or sampling steps. May raise to stop.
OnStep = Callable[[int, int], None]


class Upscaler(Protocol):
    """`name` is what metadata calls it."""

    @property
    def name(self) -> str: ...

    def enlarge(self, image: Image, source: InputSpec, on_step: OnStep) -> Image:
        """`image` at the implementation's own scale, with its alpha if it has one."""
