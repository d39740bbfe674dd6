"""What users sent, decoded: every mode that cameras and tools write, and files that are damaged."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL.Image import Image

from runner.images.decode import InputRefused, decode, decode_alpha_mask, decode_mask
from shared.protocol.messages import Format, SourceSpec

SIDES = (6, 4)
FORMATS: dict[Format, str] = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
GREY = 100


def source(format: Format, orientation: int = 1, **changes: Any) -> SourceSpec:
    width, height = SIDES if orientation < 5 else SIDES[::-1]
    facts: dict[str, Any] = {
        "item_index": 0,
        "role": "image",
        "id": "4711",
        "format": format,
        "width": width,
        "height": height,
        "orientation": orientation,
        "sha256": "0" * 64,
    }
    return SourceSpec(**(facts | changes))


def encoded(image: Image, format: Format, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[format], **options)
    return buffer.getvalue()


def no_remark(message: Any, body: bytes = b"") -> None:
    raise AssertionError(message)


def of_16_bits() -> Image:
    return PIL.Image.fromarray(np.full(SIDES[::-1], GREY << 8 | 77, dtype=np.uint16))


def png_with_key(depth: int, key: int, *, colours: bool = False) -> bytes:
    """Two columns with the level `key`, which is called transparent, and four with another one.

    Written by hand: Pillow writes no such file.
    """
    most = (1 << depth) - 1
    each = 3 if colours else 1
    bits = "".join(f"{level:0{depth}b}" * each for level in (key, key, *[most - key] * 4))
    row = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    head = struct.pack(">IIBBBBB", *SIDES, depth, 2 if colours else 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * SIDES[1])
    key_bytes = struct.pack(">H", key) * each
    chunks = [(b"IHDR", head), (b"tRNS", key_bytes), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)
        for kind, body in chunks
    )


def palette() -> Image:
    return PIL.Image.new("RGB", SIDES, (GREY,) * 3).quantize(4)


def transparent_palette() -> Image:
    image = palette()
    image.info["transparency"] = image.getpixel((0, 0))
    return image


CASES: list[tuple[Format, Image, tuple[int, int, int]]] = [
    ("png", PIL.Image.new("1", SIDES, 1), (255, 255, 255)),
    ("png", PIL.Image.new("L", SIDES, GREY), (GREY,) * 3),
    ("png", PIL.Image.new("LA", SIDES, (0, 0)), (255, 255, 255)),
    ("png", of_16_bits(), (GREY,) * 3),
    ("png", palette(), (GREY,) * 3),
    ("png", transparent_palette(), (255, 255, 255)),
    ("png", PIL.Image.new("RGB", SIDES, (10, 20, 30)), (10, 20, 30)),
    ("png", PIL.Image.new("RGBA", SIDES, (0, 0, 0, 0)), (255, 255, 255)),
    ("png", PIL.Image.new("RGBA", SIDES, (255, 0, 0, 128)), (255, 127, 127)),
    ("jpg", PIL.Image.new("L", SIDES, GREY), (GREY,) * 3),
    ("jpg", PIL.Image.new("RGB", SIDES, (10, 20, 30)), (10, 20, 30)),
    ("jpg", PIL.Image.new("CMYK", SIDES, (0, 0, 0, 255 - GREY)), (GREY,) * 3),
    ("webp", PIL.Image.new("RGB", SIDES, (10, 20, 30)), (10, 20, 30)),
    ("webp", PIL.Image.new("RGBA", SIDES, (0, 0, 0, 0)), (255, 255, 255)),
]


@pytest.mark.parametrize(
    ("format", "image", "colour"),
    CASES,
    ids=[f"{f}-{i.mode}-{n}" for n, (f, i, _) in enumerate(CASES)],
)
def test_every_mode_becomes_the_colours_that_a_viewer_shows(
    format: Format, image: Image, colour: tuple[int, int, int]
) -> None:
    options = {"lossless": True} if format == "webp" else {}
    made = decode(encoded(image, format, **options), source(format), no_remark)
    assert (made.mode, made.size) == ("RGB", SIDES)
    assert np.abs(np.asarray(made).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied(orientation: int) -> None:
    """As the EXIF standard's table has it: which corner the first pixel is at."""
    image = PIL.Image.new("L", SIDES)
    image.putpixel((0, 0), 255)
    made = decode(encoded(image, "png"), source("png", orientation), no_remark)
    width, height = made.size
    assert made.size == (SIDES if orientation < 5 else SIDES[::-1])
    left, right, top, bottom = 0, width - 1, 0, height - 1
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    corners += [(left, top), (right, top), (right, bottom), (left, bottom)]
    assert made.getpixel(corners[orientation - 1]) == (255, 255, 255)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_of_an_animation_the_first_picture_counts(format: Format) -> None:
    red, blue = (PIL.Image.new("RGB", SIDES, colour) for colour in ("red", "blue"))
    data = encoded(red, format, save_all=True, append_images=[blue], lossless=True)
    assert decode(data, source(format), no_remark).getpixel((0, 0)) == (255, 0, 0)


def test_a_mask_is_its_brightness() -> None:
    image = PIL.Image.new("RGBA", SIDES, (255, 255, 255, 255))
    image.putpixel((1, 1), (0, 0, 0, 255))
    made = decode_mask(encoded(image, "png"), source("png", role="mask"))
    assert (made.mode, made.getpixel((0, 0)), made.getpixel((1, 1))) == ("L", 255, 0)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_a_mask_that_is_drawn_in_white_on_nothing_keeps_what_is_not_drawn(mode: str) -> None:
    image = PIL.Image.new("RGBA", SIDES, (255, 255, 255, 0))
    image.putpixel((1, 1), (255, 255, 255, 255))
    image.putpixel((2, 1), (255, 255, 255, 255))
    made = decode_mask(encoded(image.convert(mode), "png"), source("png", role="mask"))
    assert [made.getpixel((x, 1)) for x in range(4)] == [0, 255, 255, 0]


KEYS = [
    *((depth, key, False) for depth in (1, 2, 4, 8, 16) for key in (0, (1 << depth) - 1)),
    *((2, 1, False), (4, 6, False), (8, 100, False), (16, 0x1234, False)),
    *((8, 100, True), (16, 0, True), (16, 0x8000, True), (16, 0x1234, True)),
]


@pytest.mark.parametrize(("depth", "key", "colours"), KEYS)
def test_one_colour_of_a_png_is_transparent_at_every_depth(
    depth: int, key: int, colours: bool
) -> None:
    data = png_with_key(depth, key, colours=colours)
    most = (1 << depth) - 1
    other = (most - key) * 255 // most
    image = decode(data, source("png"), no_remark)
    mask = decode_mask(data, source("png", role="mask"))
    alpha = decode_alpha_mask(data, source("png", role="alpha_mask"))
    assert [image.getpixel((x, 1)) for x in (0, 1)] == [(255, 255, 255)] * 2
    assert [mask.getpixel((x, 1)) for x in (0, 1)] == [0, 0]
    for x in (2, 5):
        assert np.abs(np.asarray(image)[1, x].astype(int) - other).max() <= 1
        assert abs(int(np.asarray(mask)[1, x]) - other) <= 1
    assert [alpha.getpixel((x, 1)) for x in range(6)] == [255, 255, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("data", "changes", "problem"),
    [
        (encoded(palette(), "png"), {"width": 600}, "it is 6x4 pixels, not as its head said"),
        (encoded(palette(), "png"), {"format": "jpg"}, "it is no file of its format"),
        (encoded(PIL.Image.new("RGB", SIDES), "jpg")[:-4], {"format": "jpg"}, "truncated"),
        (b"", {}, "it is no file of its format"),
    ],
)
def test_what_cannot_be_decoded_is_refused_by_its_name(
    data: bytes, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputRefused, match=rf"the input 4711 \(image\) cannot be .*{problem}"):
        decode(data, source(**({"format": "png"} | changes)), no_remark)


@pytest.mark.parametrize("format", FORMATS)
def test_damage_gives_a_picture_or_a_refusal_and_nothing_else(format: Format) -> None:
    chance = random.Random(7)
    noise = np.random.default_rng(7).integers(0, 255, (*SIDES[::-1], 3), dtype=np.uint8)
    whole = encoded(PIL.Image.fromarray(noise), format)
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            made = decode(bytes(data[: chance.randint(1, len(data))]), source(format), no_remark)
        except InputRefused:
            refused += 1
        else:
            assert made.size == SIDES
    assert refused


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_of_an_alpha_mask_what_is_transparent_is_painted_anew(
    format: Format, orientation: int
) -> None:
    alpha = PIL.Image.new("L", SIDES, 255)
    alpha.putpixel((0, 0), 0)
    alpha.putpixel((1, 0), 100)
    image = PIL.Image.new("RGBA", SIDES, "white")
    image.putalpha(alpha)
    data = encoded(image, format, lossless=True)
    mask = decode_alpha_mask(data, source(format, orientation, role="alpha_mask"))
    if orientation == 6:  # a quarter to the right
        mask = mask.transpose(PIL.Image.Transpose.ROTATE_90)
    assert (mask.mode, mask.size) == ("L", SIDES)
    assert [mask.getpixel((x, 0)) for x in range(3)] == [255, 155, 0]


def test_an_alpha_mask_of_a_palette_has_the_transparency_of_its_colours() -> None:
    mask = decode_alpha_mask(encoded(transparent_palette(), "png"), source("png"))
    assert mask.getextrema() == (255, 255)


def test_an_alpha_mask_without_transparency_is_refused_by_name() -> None:
    with pytest.raises(InputRefused, match=r"4711 .* nothing of it is transparent"):
        decode_alpha_mask(encoded(palette(), "png"), source("png"))
