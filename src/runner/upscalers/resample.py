"""Enlarging by resampling: Lanczos, which invents nothing.

It works on the encoded (sRGB) values, not on linear light, as every tool with a "Lanczos" upscaler
does. For enlarging that is also what looks better: the filter rings on both sides of an edge, and
in linear light the dark side of it is by far the more visible one. Transparent pixels have no
colour to give to their neighbours, so colours are weighted by alpha first (Pillow does, for `RGBA`
and `LA`). Overshoot is cut off at black and white.
"""

from PIL.Image import Image, Resampling

from runner.upscalers.base import OnStep
from shared.protocol.messages import InputSpec, ResampleParams

_AS_THEY_ARE = frozenset({"L", "LA", "RGB", "RGBA"})


def resample(image: Image, size: tuple[int, int]) -> Image:
    """`image` at `size` pixels, in grey or colour as it was, with its alpha if it has one."""
    if image.mode not in _AS_THEY_ARE:
        # A palette's numbers are names, not brightnesses: nothing lies between two of them.
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.resize(size, Resampling.LANCZOS)


class ResampleUpscaler:
    """The implementation of `upscale` that has nothing to load."""

    name = "Lanczos"
    remarks = ()

    def __init__(self, params: ResampleParams) -> None:
        self._scale = params.scale

    def enlarge(self, image: Image, _source: InputSpec, on_step: OnStep) -> Image:
        larger = resample(image, (image.width * self._scale, image.height * self._scale))
        on_step(1, 1)
        return larger
