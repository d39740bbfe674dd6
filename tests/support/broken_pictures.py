"""Pictures that are broken in one place each, made anew for each run from sound ones.

The kinds are those of the collections that decoders are tested with: parts left out, repeated,
exchanged and cut, lengths and sums that lie, heads that promise what the data has not, and small
files that unpack to large ones. Each has a name, so that a failure says what was fed.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import PIL.Image

from shared.protocol.messages import Format

SIDES = (37, 23)
BOMB_BYTES = 64 << 20  # what a bomb unpacks to
_PNG_START = b"\x89PNG\r\n\x1a\n"
Parts = list[bytes]


@dataclass(frozen=True, slots=True)
class Broken:
    name: str
    format: Format
    data: bytes


def broken_pictures() -> Iterator[Broken]:
    options: dict[str, Any]
    for mode in ("RGB", "P", "RGBA", "I;16"):
        yield from _as("png", mode, _broken_png(_split_png(sound("png", mode))))
    for options in ({}, {"progressive": True}, {"mode": "CMYK"}):
        split = _split_jpeg(sound("jpeg", **options))
        yield from _as("jpg", str(options), _broken_jpeg(split))
    for options in ({"lossless": True}, {"mode": "RGBA"}, {"mode": "RGBA", "frames": 3}):
        split = _split_webp(sound("webp", **options))
        yield from _as("webp", str(options), _broken_webp(split))


def sound(format: str, mode: str = "RGB", *, frames: int = 1, **options: Any) -> bytes:
    """A picture of a gradient, with an orientation."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    gradient = PIL.Image.linear_gradient("L").resize(SIDES)
    image = gradient.convert(mode) if mode != "I;16" else gradient.convert("I").convert("I;16")
    if frames > 1:
        options |= {
            "save_all": True,
            "append_images": [image.rotate(90 * n) for n in range(1, frames)],
        }
    buffer = io.BytesIO()
    image.save(buffer, format, exif=exif.tobytes(), **options)
    return buffer.getvalue()


def _as(format: Format, what: str, files: Iterator[tuple[str, bytes]]) -> Iterator[Broken]:
    for name, data in files:
        yield Broken(f"{format} {what}: {name}", format, data)


def _rearranged(parts: Parts) -> Iterator[tuple[str, Parts]]:
    """Each part left out, repeated, cut, emptied and exchanged with the next."""
    for n, part in enumerate(parts):
        before, after = parts[:n], parts[n + 1 :]
        yield f"part {n} is missing", before + after
        yield f"part {n} comes twice", [*before, part, *parts[n:]]
        yield f"part {n} is cut", [*before, part[: len(part) // 2], *after]
        yield f"part {n} is zero", [*before, bytes(len(part)), *after]
        yield f"part {n} is ones", [*before, b"\xff" * len(part), *after]
        if after:
            yield f"part {n} changes places", [*before, after[0], part, *after[1:]]


@cache
def _bomb() -> bytes:
    return zlib.compress(bytes(BOMB_BYTES), 9)


# PNG ----------------------------------------------------------------------------------------------


def _split_png(data: bytes) -> Parts:
    parts, place = [], len(_PNG_START)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        parts.append(data[place:end])
        place = end
    return parts


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def _broken_png(parts: Parts) -> Iterator[tuple[str, bytes]]:
    def whole(parts: Sequence[bytes]) -> bytes:
        return _PNG_START + b"".join(parts)

    for name, others in _rearranged(parts):
        yield name, whole(others)
    for n, part in enumerate(parts):
        for size in (0, len(part) - 13, len(part) - 11, 2**31 - 1, 2**32 - 1):
            lying = (size % 2**32).to_bytes(4) + part[4:]
            yield f"chunk {n} says {size} bytes", whole([*parts[:n], lying, *parts[n + 1 :]])
        wrong = part[:-4] + bytes(4)
        yield f"chunk {n} has a wrong sum", whole([*parts[:n], wrong, *parts[n + 1 :]])
    head, rest = parts[0][8:-4], parts[1:]
    for place, values in (
        (8, (0, 3, 7, 17)),
        (9, (1, 5, 7, 255)),
        (10, (1,)),
        (11, (1,)),
        (12, (1, 2)),
    ):
        for value in values:
            changed = head[:place] + bytes((value,)) + head[place + 1 :]
            yield f"byte {place} of the head is {value}", whole([_chunk(b"IHDR", changed), *rest])
    for width, height in ((1, 1), (37, 2000), (2000, 23), (8000, 8000)):
        lying = _chunk(b"IHDR", struct.pack(">II", width, height) + head[8:])
        yield f"the head says {width}x{height}", whole([lying, *rest])
    for name, data in (("nothing", b""), ("no zlib", b"abc"), ("a bomb", _bomb())):
        pixels = [_chunk(b"IDAT", data) if part[4:8] == b"IDAT" else part for part in parts]
        yield f"its pixels are {name}", whole(pixels)
    text = b"a\0\0" + _bomb()
    for kind, data in (
        (b"zTXt", text),
        (b"iTXt", b"a\0\1\0\0\0" + _bomb()),
        (b"iCCP", text),
        (b"eXIf", b"II*\0" + b"\xff" * 100),
        (b"PLTE", bytes(7)),
        (b"PLTE", bytes(3 * 300)),
        (b"tRNS", bytes(1000)),
        (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        (b"fcTL", struct.pack(">IIIIIHHBB", 0, 9999, 9999, 9999, 9999, 0, 0, 9, 9)),
    ):
        yield (
            f"a {kind.decode()} of {len(data)} bytes",
            whole([parts[0], _chunk(kind, data), *rest]),
        )


# JPEG ---------------------------------------------------------------------------------------------


def _split_jpeg(data: bytes) -> Parts:
    """Its segments; the last part is the data of its first scan with all that follows."""
    parts, place = [data[:2]], 2
    while True:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        parts.append(data[place:end])
        if data[place + 1] == 0xDA:
            return [*parts, data[end:]]
        place = end


def _segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + (len(data) + 2).to_bytes(2) + data


def _broken_jpeg(parts: Parts) -> Iterator[tuple[str, bytes]]:
    whole = b"".join
    for name, others in _rearranged(parts):
        yield name, whole(others)
    for n, part in enumerate(parts[1:-1], 1):
        for size in (0, 1, 2, len(part) - 3, len(part) - 1, 0xFFFF):
            lying = part[:2] + size.to_bytes(2) + part[4:]
            yield f"segment {n} says {size} bytes", whole([*parts[:n], lying, *parts[n + 1 :]])
        if part[1] in (0xC0, 0xC2):
            for place, values in (
                *((4, (0, 7, 12, 255)), (5, (0, 200)), (7, (0, 200)), (9, (0, 2, 200))),
                *((11, (0, 0x1F, 0x44, 0xFF)), (12, (9,))),
            ):
                for value in values:
                    changed = part[:place] + bytes((value,)) + part[place + 1 :]
                    file = whole([*parts[:n], changed, *parts[n + 1 :]])
                    yield f"byte {place} of the frame is {value}", file
    scan = parts[-1]
    yield "half of its scan", whole([*parts[:-1], scan[: len(scan) // 2], b"\xff\xd9"])
    yield "no scan at all", whole([*parts[:-1], b"\xff\xd9"])
    yield "restarts where none belong", whole([*parts[:-1], b"\xff\xd0\xff\xd7\xff\xd3", scan])
    loop = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0x0112, 4, 1, 6)
    for name, tiff in (
        ("is no TIFF", b"abcd"),
        ("ends in its head", b"II*\0\x08"),
        ("begins behind its end", b"II*\0" + struct.pack("<I", 2**32 - 1)),
        ("has 65535 entries", b"MM\0*" + struct.pack(">IH", 8, 65535)),
        ("leads back to itself", loop + struct.pack("<I", 8)),
        ("has an orientation of 0", loop[:18] + struct.pack("<I", 0) + bytes(4)),
    ):
        exif = _segment(0xE1, b"Exif\0\0" + tiff)
        yield f"its EXIF {name}", whole([parts[0], exif, *parts[1:]])
    for name, marker, data in (
        ("a colour transform that is none", 0xEE, b"Adobe\0d\0\0\0\0\7"),
        ("the second of three pieces of a profile", 0xE2, b"ICC_PROFILE\0\2\3abc"),
        ("several pictures that are not there", 0xE2, b"MPF\0II*\0" + bytes(40)),
        ("a restart at each block", 0xDD, b"\0\1"),
    ):
        yield name, whole([parts[0], _segment(marker, data), *parts[1:]])


# WebP ---------------------------------------------------------------------------------------------


def _split_webp(data: bytes) -> Parts:
    parts, place = [], 12
    while place < len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + size + size % 2
        parts.append(data[place:end])
        place = end
    return parts


def _broken_webp(parts: Parts) -> Iterator[tuple[str, bytes]]:
    def whole(parts: Sequence[bytes], lie: int = 0) -> bytes:
        body = b"WEBP" + b"".join(parts)
        return b"RIFF" + max(0, len(body) + lie).to_bytes(4, "little") + body

    for lie in (-len(b"".join(parts)), -9, -1, 1, 1000, 2**31):
        yield f"its length is {lie} wrong", whole(parts, lie)
    for name, others in _rearranged(parts):
        yield name, whole(others)
    for n, part in enumerate(parts):
        for size in (0, 1, len(part) - 9, len(part) - 7, 2**31, 2**32 - 1):
            lying = part[:4] + (size % 2**32).to_bytes(4, "little") + part[8:]
            yield f"chunk {n} says {size} bytes", whole([*parts[:n], lying, *parts[n + 1 :]])
        for place in range(8, min(len(part), 24)):
            for value in (0, 0x7F, 0xFF):
                changed = part[:place] + bytes((value,)) + part[place + 1 :]
                file = whole([*parts[:n], changed, *parts[n + 1 :]])
                yield f"byte {place} of chunk {n} is {value}", file
