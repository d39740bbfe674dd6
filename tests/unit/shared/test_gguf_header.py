"""What a GGUF header may say: a stranger wrote it, and the library that reads on believes it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.gguf_files import (
    ARCHITECTURE,
    ARRAY,
    F16,
    F32,
    Q4_0,
    Q8_0,
    SOUND,
    STRING,
    UINT32,
    entry,
    of,
    text,
)

from shared.errors import ModelUnavailable
from shared.models.gguf_header import MAX_ELEMENTS, MAX_HEADER_BYTES, PACKINGS, read_gguf


def read(folder: Path, data: bytes) -> Any:
    (folder / "x.gguf").write_bytes(data)
    return read_gguf(folder, "x.gguf")


def array(kind: int, length: int, data: bytes = b"") -> bytes:
    return entry("an.array", ARRAY, struct.pack("<IQ", kind, length) + data)


def aligned(value: int, kind: int = UINT32) -> bytes:
    return entry("general.alignment", kind, struct.pack("<I", value))


def test_shapes_are_torch_s_and_sizes_those_of_the_file(tmp_path: Path) -> None:
    weight, bias = read(tmp_path, of()).values()
    assert (weight.shape, weight.packing.name, weight.size_bytes) == ((2, 32), "Q8_0", 68)
    assert (bias.shape, bias.packing.name, bias.size_bytes) == ((2,), "F32", 8)


@pytest.mark.parametrize(
    "data",
    [
        of(version=2),
        of(alignment=64, entries=[aligned(64)]),
        of(entries=[array(STRING, 2, text("a") + text("b"))]),
        of(entries=[array(5, 2, b"\0" * 8)]),
        of(entries=[entry("a", 0, b"\0"), entry("b", 7, b"\1"), entry("c", 12, b"\0" * 8)]),
        of([("a", (4, 3), F16, b"\0" * 24)]) + b"\0" * 8,  # padded at the end, as some tools do
    ],
)
def test_what_the_format_allows_is_read(data: bytes, tmp_path: Path) -> None:
    assert read(tmp_path, data)


def test_packings_are_those_of_the_library() -> None:
    gguf = pytest.importorskip("gguf")
    for number, packing in PACKINGS.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (
            packing.name,
            (packing.group, packing.size_bytes),
        )


HUGE = 2**63
WRONG: list[tuple[bytes, str]] = [
    (b"", "ends early"),
    (b"GGML" + of()[4:], "does not begin with GGUF"),
    (of(version=1), "version 1"),
    (of(version=0x03000000), "version 50331648"),  # the other byte order
    (of(counts=(HUGE, 1)), "tensors; 16384 at most"),
    (of(counts=(2, HUGE)), "entries; 1024 at most"),
    (of(counts=(3, 1)), "bytes of a name|ends early|with nothing"),
    (of([]), "no tensors"),
    (of([SOUND[1], SOUND[1]]), "tensor a.bias is there twice"),
    (of(entries=[ARCHITECTURE, ARCHITECTURE]), "entry general.architecture is there twice"),
    (of([("a" * 513, (2,), F32, b"\0" * 8)]), "513 bytes of a name"),
    (of([("", (2,), F32, b"\0" * 8)]), "a name with nothing"),
    (of([("a\n", (2,), F32, b"\0" * 8)]), "cannot be printed"),
    (of(entries=[entry("k", STRING, struct.pack("<Q", HUGE))]), "ends early"),
    (of(entries=[entry("k", 13, b"")]), "unknown type 13"),
    (of(entries=[array(0, HUGE)]), f"elements; {MAX_ELEMENTS} at most"),
    (of(entries=[array(0, MAX_ELEMENTS + 1, b"\0" * (MAX_ELEMENTS + 1))]), "elements; "),
    (of(entries=[array(ARRAY, 1)]), "an array of the type 9"),
    (of(entries=[aligned(0)]), "an alignment of 0"),
    (of(entries=[aligned(48)]), "an alignment of 48"),
    (of(entries=[aligned(1 << 20)]), "an alignment of 1048576"),
    (of(entries=[aligned(32, kind=5)]), "an alignment of 32"),
    (of([("a", (), F32, b"")]), "without numbers"),
    (of([("a", (2, 0), F32, b"")]), "without numbers"),
    (of([("a", (1, 1, 1, 1, 1), F32, b"\0" * 4)]), "5 sides of a tensor; 4 at most"),
    (of([("a", (2,), 28, b"\0" * 16)]), "of the type 28"),
    (of([("a", (2,), 99, b"\0" * 16)]), "of the type 99"),
    (of([("a", (33, 2), Q8_0, b"\0" * 68)]), "rows of 33 numbers, which Q8_0 packs by 32"),
    (of([("a", (64,), Q4_0, b"\0" * 36)]), "a list of numbers as Q4_0"),
    (of([("a", (HUGE, 2), F32, b"\0" * 8)]), "its tensors end at"),
    (of(offsets={"a.bias": 0}), "a.bias is at 0"),
    (of(offsets={"a.bias": HUGE}), "a.bias is at"),
    (of(offsets={"a.weight": 32}), "a.weight is at 32"),
    (of()[:-1], "its tensors end at"),
    (of() + b"\0" * 64, "its tensors end at"),
    (of(entries=[entry("k", STRING, text(b"\0" * MAX_HEADER_BYTES))]), "more than"),
]


@pytest.mark.parametrize(("data", "why"), WRONG, ids=[why for _, why in WRONG])
def test_a_hostile_header_is_refused_for_what_it_is(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=f"x.gguf: not a sound GGUF file: .*({why})"):
        read(tmp_path, data)


def test_a_cut_file_is_refused_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = of()
    for length in range(len(whole)):
        with pytest.raises(ModelUnavailable):
            read(tmp_path, whole[:length])


@given(data=st.data())
def test_changed_bytes_are_read_or_refused(data: st.DataObject, tmp_path_factory: Any) -> None:
    changed = bytearray(of())
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, 200))] = data.draw(st.integers(0, 255))
    try:
        tensors = read(tmp_path_factory.getbasetemp(), bytes(changed))
    except ModelUnavailable:
        return
    assert sum(each.size_bytes for each in tensors.values()) <= len(changed)
