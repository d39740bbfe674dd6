"""Turns a picture's numbers into those of sRGB, as the colour profile in its file says.

Models were trained on sRGB, and what they draw is sRGB. The numbers of another space would be other
colours to them, and paler or stronger ones in the result. Which profiles are applied:

    of RGB      to colours and palettes, and to grey, which is three equal numbers
    of grey     to grey
    of CMYK     to CMYK

A profile of sRGB changes nothing. One that is damaged, or of another space than the pixels, cannot
be applied; viewers pass over it too. Colours that sRGB does not have become the nearest ones.
"""

import io
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageCms, PngImagePlugin
from PIL.Image import Image

# As viewers show photographs: white stays white, black stays black, colours keep their tone.
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
# The spaces of profiles, and the mode of pixels that each is for.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Profiles of sRGB differ by how their tables are rounded, and numbers that are sRGB's stay as they
# are. Nobody sees two levels of 255.
_SAME_WITHIN = 2
_FAILURES = (OSError, ValueError, TypeError, ImageCms.PyCMSError)

# Pillow refuses a whole PNG for a profile of more than a mebibyte. Profiles of printers and
# scanners have some; of JPEG and WebP it reads any.
PngImagePlugin.MAX_TEXT_CHUNK = 4 << 20


class ProfileUnusable(Exception):
    """A profile cannot be applied to its picture; the message says why."""


def to_srgb(image: Image, profile: bytes) -> Image:
    """A picture of 8 bits a channel in sRGB: `image` itself, RGB, or RGBA if it had transparency.

    Raises `ProfileUnusable`.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _mode(source.profile.xcolor_space.strip(), image.mode)
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB", _INTENT, _FLAGS)
        if mode != "CMYK" and _changes_nothing(transform, mode):
            return image
        if mode == "RGB":
            # In place, since a picture may take as much memory as a step has.
            drawn = image.convert("RGBA" if image.has_transparency_data else "RGB")
            transform = ImageCms.buildTransform(
                source, target, drawn.mode, drawn.mode, _INTENT, _FLAGS
            )
            ImageCms.applyTransform(drawn, transform, inPlace=True)
            return drawn
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        converted = ImageCms.applyTransform(image.convert(mode), transform)
    except _FAILURES as error:
        raise ProfileUnusable(str(error)) from error
    assert converted is not None, "only a transform in place returns nothing"
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _mode(space: str, pixels: str) -> str:
    """In which mode pixels of a mode are converted by a profile of this space."""
    fitting = {"CMYK": ("CMYK",), "1": ("L", "RGB"), "L": ("L", "RGB"), "LA": ("L", "RGB")}
    mode = _MODES.get(space, "")
    if mode not in fitting.get(pixels, ("RGB",)):
        raise ValueError(f"it is a profile of {space!r}, and the pixels are {pixels}")
    return mode


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether numbers of RGB or L are sRGB's already; tried with some of all."""
    if mode == "L":
        numbers = np.arange(256, dtype=np.uint8)[None]
        wanted = np.repeat(numbers[..., None], 3, axis=2)
    else:
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        numbers = wanted = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    made = ImageCms.applyTransform(PIL.Image.fromarray(numbers), transform)
    return bool(np.abs(np.asarray(made, dtype=np.int16) - wanted).max() <= _SAME_WITHIN)
