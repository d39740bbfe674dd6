"""Decodes a picture that a user sent: whatever a camera or a tool wrote becomes 8-bit RGB.

Only here are a stranger's pixels decoded, in the process of one step. The sides are compared with
those of the row before anything is decoded, so a file cannot be larger than it said. What the modes
of files become:

    16 bits a channel    the upper 8, as a viewer shows them
    palette, grey, CMYK  the colours that they stand for
    a colour profile     the same colours in sRGB; of a mask the numbers count, whatever its profile
    transparent          as it looks on white paper; a mask as on black paper
    one colour of a PNG  transparent, at every depth
    animated             its first picture
"""

import io
from collections.abc import Callable

import numpy as np
import PIL.Image
import PIL.ImageChops
from PIL.Image import Image, Transpose

from runner.images.encode import opaque
from runner.images.profiles import ProfileUnusable, to_srgb
from runner.ipc.channel import Emit
from shared.protocol.messages import Format, Log, SourceSpec

_PNG_DEPTH = 24  # where a PNG says how many bits a level has
PILLOW_FORMATS: dict[Format, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
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


def decode(data: bytes, source: SourceSpec, emit: Emit) -> Image:
    """The picture in the file `data`, as RGB, as it is looked at. Raises `InputRefused`.

    A colour profile that cannot be applied is left out, and a warning is emitted.
    """

    def seen(file: Image) -> Image:
        image, profile = _eight_bits(file), file.info.get("icc_profile")
        if profile:
            try:
                image = to_srgb(image, profile)
            except ProfileUnusable as error:
                emit(_left_out(source, error))
        return opaque(image)

    return _decode(data, source, seen)


def _left_out(source: SourceSpec, error: ProfileUnusable) -> Log:
    text = (
        f"the colour profile of the input {source.id} ({source.role}) is not applied, so its "
        f"colours count as sRGB: {error}"
    )
    return Log(level="WARNING", code="input.profile", message=text)


def decode_mask(data: bytes, source: SourceSpec) -> Image:
    """The same as levels of grey (L): 255 is painted anew, 0 stays.

    So does what is transparent: editors draw a mask in white on nothing.
    """
    return _decode(data, source, _levels)


def _levels(file: Image) -> Image:
    image = _eight_bits(file)
    if not image.has_transparency_data:
        return image.convert("RGB").convert("L")
    on_paper = PIL.Image.new("RGBA", image.size, "black")
    # In place, since a picture may take as much memory as a step has.
    on_paper.alpha_composite(image if image.mode == "RGBA" else image.convert("RGBA"))
    return on_paper.convert("L")


def decode_alpha_mask(data: bytes, source: SourceSpec) -> Image:
    """The same of a mask that is transparent where the picture is painted anew."""
    return _decode(data, source, _transparency)


def _transparency(file: Image) -> Image:
    image = _eight_bits(file)
    if not image.has_transparency_data:
        raise ValueError("nothing of it is transparent, so it says nowhere what to paint anew")
    return PIL.ImageChops.invert(image.convert("RGBA").getchannel("A"))


def _decode(data: bytes, source: SourceSpec, convert: Callable[[Image], Image]) -> Image:
    try:
        return _convert(data, source, convert)
    except MemoryError:
        raise
    except PIL.UnidentifiedImageError:
        raise _refused(source, "it is no file of its format") from None
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error
        raise _refused(source, str(error)) from error


def _refused(source: SourceSpec, problem: str) -> InputRefused:
    return InputRefused(f"the input {source.id} ({source.role}) cannot be decoded: {problem}")


def _convert(data: bytes, source: SourceSpec, convert: Callable[[Image], Image]) -> Image:
    with PIL.Image.open(io.BytesIO(data), formats=[PILLOW_FORMATS[source.format]]) as file:
        stored = file.size[::-1] if source.orientation >= 5 else file.size
        if stored != (source.width, source.height):
            raise ValueError(f"it is {stored[0]}x{stored[1]} pixels, not as its head said")
        file.load()
        if source.format == "png":
            _scale_key(file, depth=data[_PNG_DEPTH])
        converted = convert(file)
    # Else an inpainted picture, which is a copy of this one, would be saved with its profile.
    converted.info.clear()
    if source.orientation in TRANSPOSITIONS:
        return converted.transpose(TRANSPOSITIONS[source.orientation])
    return converted


def _scale_key(file: Image, *, depth: int) -> None:
    """Make the colour that a PNG calls transparent one of its pixels as they were read.

    Pillow reads levels of every depth into 8 bits, and keeps this colour in the file's own. Of 16
    bits of grey it keeps all in both.
    """
    key = file.info.get("transparency")
    if file.mode == "L" and isinstance(key, int):
        most = (1 << depth) - 1
        file.info["transparency"] = (key & most) * 255 // most
    elif file.mode == "RGB" and isinstance(key, tuple) and depth == 16:
        file.info["transparency"] = tuple(level >> 8 for level in key)


def _eight_bits(image: Image) -> Image:
    """Pillow would cut 16 bits of grey to their lower half: nearly all white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        levels = np.asarray(image).astype(np.uint32)
        grey = PIL.Image.fromarray((levels >> 8).clip(0, 255).astype(np.uint8))
        key = image.info.get("transparency")
        if not isinstance(key, int):
            return grey
        alpha = PIL.Image.fromarray((levels != key).astype(np.uint8) * np.uint8(255))
        return PIL.Image.merge("LA", (grey, alpha))
    return image
