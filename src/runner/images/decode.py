"""Decodes a picture that a user sent: whatever a camera or a tool wrote becomes 8-bit RGB.

Only here are a stranger's pixels decoded, in the process of one step. The sides are compared with
those of the row before anything is decoded, so a file cannot be larger than it said. What the modes
of files become:

    16 bits a channel    the upper 8, as a viewer shows them
    palette, grey, CMYK  the colours that they stand for; a colour profile is not applied
    transparent          as it looks on white paper
    animated             its first picture
"""

import io

import numpy as np
import PIL.Image
from PIL.Image import Image, Transpose

from runner.images.encode import opaque
from shared.protocol.messages import InputFormat, SourceSpec

PILLOW_FORMATS: dict[InputFormat, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
# What each orientation of EXIF asks for.
TRANSPOSITIONS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class InputRefused(ValueError):
    """A picture that a user sent cannot be decoded; the message names it."""


def decode(data: bytes, source: SourceSpec) -> Image:
    """The picture in the file `data`, as RGB, as it is looked at. Raises `InputRefused`."""
    try:
        return _decode(data, source)
    except MemoryError:
        raise
    except PIL.UnidentifiedImageError:
        raise _refused(source, "it is no file of its format") from None
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error
        raise _refused(source, str(error)) from error


def _refused(source: SourceSpec, problem: str) -> InputRefused:
    return InputRefused(f"the input {source.id} ({source.role}) cannot be decoded: {problem}")


def decode_mask(data: bytes, source: SourceSpec) -> Image:
    """The same as levels of grey (L): 255 is painted anew, 0 stays."""
    return decode(data, source).convert("L")


def _decode(data: bytes, source: SourceSpec) -> Image:
    with PIL.Image.open(io.BytesIO(data), formats=[PILLOW_FORMATS[source.format]]) as file:
        stored = file.size[::-1] if source.orientation >= 5 else file.size
        if stored != (source.width, source.height):
            raise ValueError(f"it is {stored[0]}x{stored[1]} pixels, not as its head said")
        file.load()
        colours = opaque(_eight_bits(file))
    if source.orientation in TRANSPOSITIONS:
        return colours.transpose(TRANSPOSITIONS[source.orientation])
    return colours


def _eight_bits(image: Image) -> Image:
    """Pillow would cut 16 bits of grey to their lower half: nearly all white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        levels = np.asarray(image).astype(np.uint32)
        return PIL.Image.fromarray((levels >> 8).clip(0, 255).astype(np.uint8))
    return image
