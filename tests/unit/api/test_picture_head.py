"""What the head of a picture's file says, whatever the pieces in which the file arrives."""

from __future__ import annotations

import io
import random
import zlib
from typing import Any

import PIL.Image
import pytest

from api.uploads.picture_head import MAX_CHUNKS, MAX_SEGMENTS, HeadReader, PictureHead
from shared.errors import InvalidInput

SIDES = (37, 23)
MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpeg": ("L", "RGB", "CMYK"),
    "webp": ("RGB", "RGBA"),
}
KINDS = [(format, mode) for format, modes in MODES.items() for mode in modes]


def file(format: str, mode: str = "RGB", orientation: int = 1, **options: Any) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.new(mode, SIDES).save(buffer, format, exif=exif.tobytes(), **options)
    return buffer.getvalue()


def read(data: bytes, piece: int = 1 << 16) -> PictureHead:
    reader = HeadReader()
    for start in range(0, len(data), piece):
        reader.feed(data[start : start + piece])
    return reader.finish()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose head says this and whose data is a line."""
    head = width.to_bytes(4) + height.to_bytes(4) + bytes((8, 2, 0, 0, 0))
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks)


@pytest.mark.parametrize(("format", "mode"), KINDS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_every_mode_is_read_in_any_pieces(format: str, mode: str, orientation: int) -> None:
    data = file(format, mode, orientation)
    width, height = SIDES if orientation == 1 else SIDES[::-1]
    for piece in (1, 11, 1 << 16):
        head = read(data, piece)
        assert (head.width, head.height, head.orientation) == (width, height, orientation)
        assert head.format == {"jpeg": "jpg"}.get(format, format)


@pytest.mark.parametrize("format", MODES)
def test_a_file_that_was_cut_is_refused_wherever_it_was(format: str) -> None:
    data = file(format, orientation=3)
    for end in range(len(data) - 1):
        with pytest.raises(InvalidInput):
            read(data[:end])


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("jpeg", {"progressive": True, "icc_profile": b"profile" * 20_000}),
        ("jpeg", {"comment": b"\xff\xd9", "dpi": (72, 72)}),
        ("webp", {"lossless": True}),
        ("webp", {"save_all": True, "append_images": [PIL.Image.new("RGB", SIDES, "red")]}),
        ("png", {"save_all": True, "append_images": [PIL.Image.new("RGB", SIDES, "red")]}),
    ],
)
def test_the_odd_kinds_are_read(format: str, options: dict[str, Any]) -> None:
    head = read(file(format, orientation=8, **options), 1000)
    assert (head.width, head.height) == SIDES[::-1]


def test_what_follows_the_end_of_the_picture_is_no_fault() -> None:
    for format in MODES:
        assert read(file(format) + b"a film" * 100).width == SIDES[0]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "ends too early"),
        (b"GIF89a" + bytes(100), "is no PNG, JPEG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no PNG, JPEG or WebP"),
        (png_of(8001, 8000), "8001x8000 are 64008000 pixels; at most 64000000"),
        (png_of(0, 5), "no pixels"),
        (png_of(9, 9).replace(b"IDAT", b"teXt"), "without a picture"),
        (file("png").replace(SIDES[0].to_bytes(4), (99).to_bytes(4), 1), "header is damaged"),
        (b"\xff\xd8\xff\xd9" + bytes(20), "not those of a JPEG"),
        (b"\xff\xd8\xff\xda\x00\x02" + bytes(20) + b"\xff\xd9", "how large"),
        (b"\xff\xd8\xff\xc3\x00\x0b\x08\0\x10\0\x10\1\1\x11\0" + bytes(9), "kind that is not read"),
        (b"RIFF\x04\0\0\0WEBP", "without a picture"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_reason(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        read(data)


def test_a_bomb_is_refused_before_its_data_has_arrived() -> None:
    reader = HeadReader()
    with pytest.raises(InvalidInput, match="4294967295x4294967295"):
        reader.feed(png_of(2**32 - 1, 2**32 - 1)[:40])


@pytest.mark.parametrize(("format", "mode"), [("png", "P"), ("jpeg", "RGB"), ("webp", "RGBA")])
def test_damage_gives_an_answer_or_a_refusal_and_nothing_else(format: str, mode: str) -> None:
    chance, whole = random.Random(7), file(format, mode, 6)
    refused = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            head = read(bytes(data[: chance.randint(1, len(data))]), chance.choice((1, 50, 9999)))
        except InvalidInput:
            refused += 1
        else:
            assert 0 < head.width * head.height <= 64_000_000
    assert refused


CHUNK = png_chunk(b"tEXt", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 1000,
        b"\xff\xd8\xff" + b"\xd0\xff" * (MAX_SEGMENTS + 1),
        png_of(8, 8)[:33] + CHUNK * (MAX_CHUNKS + 1),
        b"RIFF" + (1 << 30).to_bytes(4, "little") + b"WEBP" + (b"junk" + bytes(4)) * 20_001,
    ],
    ids=["fill bytes", "segments", "PNG chunks", "WebP chunks"],
)
def test_a_head_without_an_end_is_refused_before_it_costs_much(data: bytes) -> None:
    reader = HeadReader()
    with pytest.raises(InvalidInput):
        reader.feed(data)
