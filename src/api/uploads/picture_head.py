"""What the head of a PNG, JPEG or WebP file says: format, sides, orientation. Nothing is decoded.

A file arrives in pieces of any size. Each format has a walk through its structure: a generator that
asks for bytes to read, to skip or to search, so that a file is never in memory. A walk goes to the
end of the file and so finds one that was cut. What the pixels are worth shows in a runner, where
they are decoded (`runner.images.decode`); a wrong picture there fails one job, and no service.
"""

import zlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from shared.errors import InvalidInput
from shared.limits import MAX_INPUT_PIXELS
from shared.protocol.messages import Format

FIELD = "file"
# A block with the orientation is some kilobytes, with a thumbnail up to 64 KiB.
MAX_EXIF_BYTES = 1 << 16
# More than any program writes. Each of them takes as long as some kilobytes of a picture, and may
# be nothing but its own head.
MAX_CHUNKS, MAX_SEGMENTS, MAX_FILL_BYTES = 20_000, 1_000, 64
SIGNATURE_BYTES = 12
EXIF_MARK = b"Exif\0\0"
ORIENTATION_TAG, SHORT = 0x0112, 3
ROTATED = (5, 6, 7, 8)  # orientations that exchange width and height


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureHead:
    """Sides are pixels as they are stored; `orientation` is EXIF's, 1 to 8."""

    format: Format
    stored_width: int
    stored_height: int
    orientation: int = 1

    @property
    def width(self) -> int:
        """Of the picture as it is looked at."""
        return self.stored_height if self.orientation in ROTATED else self.stored_width

    @property
    def height(self) -> int:
        return self.stored_width if self.orientation in ROTATED else self.stored_height


@dataclass(frozen=True, slots=True)
class Peek:
    """The walk looks at so many bytes, and reads them later."""

    size: int


@dataclass(frozen=True, slots=True)
class Read:
    """The walk needs so many bytes next."""

    size: int


@dataclass(frozen=True, slots=True)
class Skip:
    """The walk does not look at so many bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Search:
    """The walk goes on behind the first place with these two bytes."""

    pattern: bytes


Walk = Generator[Peek | Read | Skip | Search, bytes, PictureHead]


class HeadReader:
    """Takes a file in pieces, and knows at its end what it is."""

    def __init__(self) -> None:
        self._walk = _file()
        self._need = next(self._walk)
        self._buffer = bytearray()
        self._head: PictureHead | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises `InvalidInput` as soon as they cannot be a picture."""
        if self._head is None:  # behind the end some tools put things of their own
            self._buffer += data
            while self._head is None and (taken := self._take()) is not None:
                try:
                    self._need = self._walk.send(taken)
                except StopIteration as done:
                    self._head = done.value

    def finish(self) -> PictureHead:
        """What the file is. Raises `InvalidInput` where it ends too early."""
        if self._head is None:
            raise wrong_file("it ends too early: it is empty, was cut off, or is no picture")
        return self._head

    def _take(self) -> bytes | None:
        """What the walk asked for; None until more bytes arrive."""
        buffer = self._buffer
        match self._need:
            case Peek(size):
                return bytes(buffer[:size]) if len(buffer) >= size else None
            case Read(size):
                if len(buffer) < size:
                    return None
                taken = bytes(buffer[:size])
                del buffer[:size]
                return taken
            case Skip(size):
                if len(buffer) < size:
                    self._need = Skip(size - len(buffer))
                    buffer.clear()
                    return None
                del buffer[:size]
                return b""
            case Search(pattern):
                place = buffer.find(pattern)
                if place < 0:
                    del buffer[: max(0, len(buffer) - len(pattern) + 1)]
                    return None
                del buffer[: place + len(pattern)]
                return b""


def wrong_file(problem: str) -> InvalidInput:
    return InvalidInput(f"{FIELD}: {problem}", field=FIELD)


def _file() -> Walk:
    start = yield Peek(SIGNATURE_BYTES)
    walks: list[tuple[bool, Callable[[], Walk]]] = [
        (start.startswith(b"\x89PNG\r\n\x1a\n"), _png),
        (start.startswith(b"\xff\xd8\xff"), _jpeg),
        (start[:4] == b"RIFF" and start[8:] == b"WEBP", _webp),
    ]
    for matches, walk in walks:
        if matches:
            head = yield from walk()
            return _checked(head)
    raise wrong_file("it is no PNG, JPEG or WebP; accepted are these three")


def _checked(head: PictureHead) -> PictureHead:
    pixels = head.stored_width * head.stored_height
    if pixels > MAX_INPUT_PIXELS:
        raise InvalidInput(
            f"{FIELD}: {head.width}x{head.height} are {pixels} pixels; at most {MAX_INPUT_PIXELS} "
            "are accepted",
            field=FIELD,
            maximum_pixels=MAX_INPUT_PIXELS,
        )
    if pixels == 0:
        raise wrong_file("its head says that it has no pixels")
    return head


# PNG ----------------------------------------------------------------------------------------------


def _png() -> Walk:
    yield Skip(8)
    head: PictureHead | None = None
    orientation, has_pixels = 1, False
    for _ in range(MAX_CHUNKS):
        chunk = yield Read(8)
        size, kind = int.from_bytes(chunk[:4]), chunk[4:]
        if size >= 1 << 31 or not kind.isalpha() or (head is None) != (kind == b"IHDR"):
            raise wrong_file("its chunks are not those of a PNG")
        if kind == b"IHDR":
            head = _png_sides((yield Read(size + 4)) if size == 13 else b"")
        elif kind == b"eXIf" and size <= MAX_EXIF_BYTES:
            orientation = orientation_of((yield Read(size + 4))[:-4])
        else:
            yield Skip(size + 4)
        has_pixels = has_pixels or kind == b"IDAT"
        if kind == b"IEND":
            break
    else:
        raise wrong_file(f"it is a PNG of more than {MAX_CHUNKS} chunks")
    if head is None or not has_pixels:
        raise wrong_file("it is a PNG without a picture")
    return replace(head, orientation=orientation)


def _png_sides(chunk: bytes) -> PictureHead:
    if len(chunk) != 17 or zlib.crc32(b"IHDR" + chunk[:13]) != int.from_bytes(chunk[13:]):
        raise wrong_file("its PNG header is damaged")
    width, height = int.from_bytes(chunk[:4]), int.from_bytes(chunk[4:8])
    # Refused before the rest has arrived.
    return _checked(PictureHead(format="png", stored_width=width, stored_height=height))


# JPEG ---------------------------------------------------------------------------------------------

_START_OF_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
# Frames that decoders know: baseline, extended and progressive, by Huffman or arithmetic coding.
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_ALL_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those are tables
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD8))


def _jpeg() -> Walk:
    yield Skip(2)
    head: PictureHead | None = None
    orientation: int | None = None
    for _ in range(MAX_SEGMENTS):
        marker = yield from _marker()
        if marker in _WITHOUT_LENGTH:
            continue
        size = int.from_bytes((yield Read(2))) - 2
        if size < 0 or marker == _END:
            raise wrong_file("its segments are not those of a JPEG")
        if marker in _ALL_FRAMES:
            head = _jpeg_sides(marker, (yield Read(size)))
        elif marker == _EXIF and orientation is None:
            segment = yield Read(size)
            orientation = orientation_of(segment) if segment.startswith(EXIF_MARK) else None
        else:
            yield Skip(size)
        if marker == _START_OF_SCAN:
            break
    else:
        raise wrong_file(f"it is a JPEG of more than {MAX_SEGMENTS} segments before its pixels")
    if head is None:
        raise wrong_file("it is a JPEG that does not say how large it is")
    # In the data a byte FF is followed by 00 or by the number of a restart, never by this.
    yield Search(bytes((0xFF, _END)))
    return replace(head, orientation=orientation or 1)


def _marker() -> Generator[Read, bytes, int]:
    """The next marker; fill bytes may come before it."""
    if (yield Read(1)) != b"\xff":
        raise wrong_file("its segments are not those of a JPEG")
    for _ in range(MAX_FILL_BYTES):
        if (byte := (yield Read(1))) != b"\xff":
            return byte[0]
    raise wrong_file("its segments are not those of a JPEG")


def _jpeg_sides(marker: int, segment: bytes) -> PictureHead:
    if marker not in _FRAMES or len(segment) < 6 or segment[0] != 8:
        raise wrong_file("it is a JPEG of a kind that is not read; save it as a usual one, or PNG")
    height, width = int.from_bytes(segment[1:3]), int.from_bytes(segment[3:5])
    return _checked(PictureHead(format="jpg", stored_width=width, stored_height=height))


# WebP ---------------------------------------------------------------------------------------------


def _webp() -> Walk:
    start = yield Read(12)
    left = int.from_bytes(start[4:8], "little") - 4
    canvas: tuple[int, int] | None = None
    frame: tuple[int, int] | None = None
    orientation, animated = 1, False
    chunks = 0
    while left >= 8:
        if (chunks := chunks + 1) > MAX_CHUNKS:
            raise wrong_file(f"it is a WebP of more than {MAX_CHUNKS} chunks")
        chunk = yield Read(8)
        kind, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        padded = size + size % 2
        left -= 8 + padded
        if left < -1:
            raise wrong_file("its chunks are not those of a WebP")
        wanted = {b"VP8X": 10, b"VP8 ": 10, b"VP8L": 5}.get(kind, 0)
        if kind == b"EXIF" and size <= MAX_EXIF_BYTES:
            wanted = size
        if size < wanted:
            raise wrong_file("its chunks are not those of a WebP")
        data = yield Read(wanted)
        if kind == b"VP8X":
            animated = bool(data[0] & 0x02)
            canvas = _below(data[4:7]) + 1, _below(data[7:10]) + 1
        elif kind == b"EXIF" and wanted:
            orientation = orientation_of(data)
        elif kind in (b"VP8 ", b"VP8L") and frame is None:
            frame = _webp_sides(kind, data)
        animated = animated or kind == b"ANMF"
        yield Skip(max(0, padded - wanted))
    sides = canvas or frame
    if sides is None or not (animated or frame):
        raise wrong_file("it is a WebP without a picture")
    if canvas and frame and not animated and canvas != frame:
        raise wrong_file("it is a WebP that says two sizes")
    return PictureHead(
        format="webp", stored_width=sides[0], stored_height=sides[1], orientation=orientation
    )


def _webp_sides(kind: bytes, data: bytes) -> tuple[int, int]:
    if kind == b"VP8L":
        if data[0] != 0x2F:
            raise wrong_file("its WebP header is damaged")
        bits = _below(data[1:5])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if data[3:6] != b"\x9d\x01\x2a":
        raise wrong_file("its WebP header is damaged")
    return _below(data[6:8]) & 0x3FFF, _below(data[8:10]) & 0x3FFF


def _below(data: bytes) -> int:
    return int.from_bytes(data, "little")


# EXIF ---------------------------------------------------------------------------------------------


def orientation_of(block: bytes) -> int:
    """The orientation in an EXIF block, with or without its own mark; 1 where it says none."""
    tiff = block.removeprefix(EXIF_MARK)
    if tiff[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    order = "little" if tiff[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(tiff[place : place + size], order)  # type: ignore[arg-type]

    first = number(4, 4)
    for place in range(first + 2, first + 2 + 12 * number(first, 2), 12):
        if number(place, 2) == ORIENTATION_TAG and number(place + 2, 2) == SHORT:
            value = number(place + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1
