"""The header of a GGUF file, read without trusting it.

    "GGUF", version, number of tensors, number of entries
    the entries: name, type, value
    the tensors: name, sides, type, offset
    padding, then the tensors' bytes, each at a multiple of the alignment

Tensors are packed in small groups of numbers that share a scale. The library that a runner reads
them with believes what a header says: it makes an object for each element of an array, and maps
what an offset points at. So a file is refused here, before that library sees it, unless its header
is small, its numbers are few, and its tensors lie one after another up to the end of the file.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shared.errors import ModelUnavailable
from shared.models.safetensors_header import MAX_NAME_CHARACTERS

# The largest header of a transformer in use has some 200 kB. One of a language model has megabytes
# of its vocabulary, and no pipeline loads such a file.
MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 16_384
MAX_ENTRIES = 1024
MAX_ELEMENTS = 65_536  # of all arrays; a reader makes an object for each
MAX_SIDES = 4  # those of the format
MAX_ALIGNMENT = 1 << 16
DEFAULT_ALIGNMENT = 32
_T = TypeVar("_T")

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # the first counts in 32 bits and has not been written for years
_STRING, _ARRAY, _UINT32 = 8, 9, 4
# Bytes of a value, by the number of its type; of a truth value too.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How a type of tensor is packed: `group` numbers of a row in `size_bytes`."""

    name: str
    group: int = 1
    size_bytes: int


# By number. Those that diffusers unpacks with torch alone.
PACKINGS = {
    0: Packing(name="F32", size_bytes=4),
    1: Packing(name="F16", size_bytes=2),
    30: Packing(name="BF16", size_bytes=2),
    2: Packing(name="Q4_0", group=32, size_bytes=18),
    3: Packing(name="Q4_1", group=32, size_bytes=20),
    6: Packing(name="Q5_0", group=32, size_bytes=22),
    7: Packing(name="Q5_1", group=32, size_bytes=24),
    8: Packing(name="Q8_0", group=32, size_bytes=34),
    20: Packing(name="IQ4_NL", group=32, size_bytes=18),
    10: Packing(name="Q2_K", group=256, size_bytes=84),
    11: Packing(name="Q3_K", group=256, size_bytes=110),
    12: Packing(name="Q4_K", group=256, size_bytes=144),
    13: Packing(name="Q5_K", group=256, size_bytes=176),
    14: Packing(name="Q6_K", group=256, size_bytes=210),
    23: Packing(name="IQ4_XS", group=256, size_bytes=136),
}
# What need not be unpacked. Norms and biases are so: no layer unpacks them.
PLAIN = frozenset({"F32", "F16"})


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """One tensor. `shape` is torch's: the last side is that of a row."""

    shape: tuple[int, ...]
    packing: Packing

    @property
    def size_bytes(self) -> int:
        """In the file."""
        return math.prod(self.shape) // self.packing.group * self.packing.size_bytes


def read_gguf(folder: Path, name: str) -> Mapping[str, GgufTensor]:
    """The tensors of a file, by name; `ModelUnavailable` says why it is unsound."""
    path = folder / name
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        start = _Start(name, stream.read(MAX_HEADER_BYTES))
    return _tensors(start, size_bytes)


class _Start:
    """The first bytes of a file, taken one thing after another."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data
        self.place = 0
        self.elements = 0  # of arrays, so far

    def unsound(self, why: str) -> ModelUnavailable:
        return ModelUnavailable(f"{self._name}: not a sound GGUF file: {why}", file=self._name)

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self.place:
            raise self.unsound(f"its header ends early, or has more than {MAX_HEADER_BYTES} bytes")
        self.place += count
        return self._data[self.place - count : self.place]

    def number(self, form: str) -> int:
        (value,) = struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))
        return int(value)

    def count(self, form: str, most: int, what: str) -> int:
        value = self.number(form)
        if value > most:
            raise self.unsound(f"{value} {what}; {most} at most")
        return value

    def name(self) -> str:
        length = self.count("Q", MAX_NAME_CHARACTERS, "bytes of a name")
        try:
            text = self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.unsound("a name that is no UTF-8") from None
        if not text.isprintable() or not text:
            raise self.unsound("a name with nothing, or with characters that cannot be printed")
        return text


def _tensors(start: _Start, size_bytes: int) -> Mapping[str, GgufTensor]:
    if start.take(4) != _MAGIC:
        raise start.unsound("it does not begin with GGUF")
    version = start.number("I")
    if version not in _VERSIONS:
        raise start.unsound(f"version {version} of the format; known are {_VERSIONS}")
    tensors = start.count("Q", MAX_TENSORS, "tensors")
    entries = start.count("Q", MAX_ENTRIES, "entries")
    values = _unique(start, entries, "entry", lambda: _read_value(start))
    found = _unique(start, tensors, "tensor", lambda: _read_tensor(start))
    if not found:
        raise start.unsound("it has no tensors")
    _check_places(start, found, _alignment(start, values), size_bytes)
    return {name: tensor for name, (tensor, _) in found.items()}


def _unique(start: _Start, count: int, what: str, read: Callable[[], _T]) -> dict[str, _T]:
    """Things by their names, each of which is there once."""
    found: dict[str, _T] = {}
    for _ in range(count):
        name = start.name()
        if name in found:
            raise start.unsound(f"the {what} {name[:80]} is there twice")
        found[name] = read()
    return found


def _read_value(start: _Start) -> tuple[int, bytes]:
    """The type of an entry and the bytes of its value, if that is one number."""
    kind = start.number("I")
    if kind in _SCALARS:
        return kind, start.take(_SCALARS[kind])
    if kind == _STRING:
        start.take(start.number("Q"))
    elif kind == _ARRAY:
        _skip_array(start)
    else:
        raise start.unsound(f"an entry of the unknown type {kind}")
    return kind, b""


def _skip_array(start: _Start) -> None:
    kind, length = start.number("I"), start.number("Q")
    start.elements += length
    if start.elements > MAX_ELEMENTS:
        raise start.unsound(f"arrays of {start.elements} elements; {MAX_ELEMENTS} at most")
    if kind in _SCALARS:
        start.take(length * _SCALARS[kind])
    elif kind == _STRING:
        for _ in range(length):
            start.take(start.number("Q"))
    else:
        raise start.unsound(f"an array of the type {kind}")


def _alignment(start: _Start, values: Mapping[str, tuple[int, bytes]]) -> int:
    kind, value = values.get("general.alignment", (_UINT32, struct.pack("<I", DEFAULT_ALIGNMENT)))
    alignment = int.from_bytes(value, "little")
    if kind != _UINT32 or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise start.unsound(f"an alignment of {alignment}; it is a power of two from 8")
    return alignment


def _read_tensor(start: _Start) -> tuple[GgufTensor, int]:
    """A tensor and its offset."""
    sides = [start.number("Q") for _ in range(start.count("I", MAX_SIDES, "sides of a tensor"))]
    kind, offset = start.number("I"), start.number("Q")
    if not sides or 0 in sides:
        raise start.unsound("a tensor without numbers")
    if (packing := PACKINGS.get(kind)) is None:
        known = ", ".join(each.name for each in PACKINGS.values())
        raise start.unsound(f"a tensor of the type {kind}; known are {known}")
    if sides[0] % packing.group:
        raise start.unsound(
            f"a tensor with rows of {sides[0]} numbers, which {packing.name} packs by "
            f"{packing.group}"
        )
    if len(sides) == 1 and packing.name not in PLAIN:
        raise start.unsound(f"a list of numbers as {packing.name}, which no layer unpacks")
    return GgufTensor(shape=tuple(reversed(sides)), packing=packing), offset


def _check_places(
    start: _Start, found: Mapping[str, tuple[GgufTensor, int]], alignment: int, size_bytes: int
) -> None:
    """Each tensor begins where the one before it ends, and the last one ends the file."""

    def padded(place: int) -> int:
        return -(-place // alignment) * alignment

    begin, end = padded(start.place), 0
    for name, (tensor, offset) in found.items():
        if offset != padded(end):
            raise start.unsound(
                f"{name[:80]} is at {offset}, and the tensor before it ends at {end}"
            )
        end = offset + tensor.size_bytes
    if not begin + end <= size_bytes <= begin + padded(end):
        raise start.unsound(f"it has {size_bytes} bytes, and its tensors end at {begin + end}")
