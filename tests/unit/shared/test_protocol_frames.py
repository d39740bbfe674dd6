from __future__ import annotations

import itertools
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol.frames import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    PREFIX,
    Frame,
    FrameDecoder,
    FrameError,
    encode,
)

values = st.integers() | st.text(max_size=20) | st.lists(st.none() | st.booleans(), max_size=3)
headers = st.dictionaries(st.text(max_size=10), values, max_size=4)
frames = st.builds(Frame, headers, st.binary(max_size=300))


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(frames, max_size=5), st.lists(st.integers(min_value=0), max_size=20))
def test_frames_survive_any_chunking(sent: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(encode(frame.header, frame.body) for frame in sent)
    decoder = FrameDecoder()
    received = [frame for chunk in chunks(stream, cuts) for frame in decoder.feed(chunk)]
    decoder.eof()
    assert received == sent


@given(frames)
def test_frames_survive_byte_by_byte(sent: Frame) -> None:
    decoder = FrameDecoder()
    stream = encode(sent.header, sent.body)
    received = [frame for i in range(len(stream)) for frame in decoder.feed(stream[i : i + 1])]
    assert received == [sent]


@given(st.lists(frames, max_size=3), frames, st.data())
def test_stream_that_ends_inside_a_frame_is_an_error_after_the_whole_ones(
    whole: list[Frame], last: Frame, data: st.DataObject
) -> None:
    half = encode(last.header, last.body)
    half = half[: data.draw(st.integers(min_value=1, max_value=len(half) - 1))]
    decoder = FrameDecoder()
    stream = b"".join(encode(frame.header, frame.body) for frame in whole) + half
    assert list(decoder.feed(stream)) == whole
    with pytest.raises(FrameError, match="ended inside a frame"):
        decoder.eof()


@given(st.binary(max_size=2000), st.lists(st.integers(min_value=0), max_size=10))
def test_garbage_raises_only_frame_error(garbage: bytes, cuts: list[int]) -> None:
    decoder = FrameDecoder(max_body_bytes=1000)
    try:
        for chunk in chunks(garbage, cuts):
            for frame in decoder.feed(chunk):
                assert isinstance(frame.header, dict)
        decoder.eof()
    except FrameError:
        pass


@given(st.binary(min_size=2, max_size=200))
def test_header_that_is_no_json_object_is_refused(raw: bytes) -> None:
    try:
        expected: Any = json.loads(raw)
    except (ValueError, RecursionError):
        expected = None
    decoder = FrameDecoder()
    stream = PREFIX.pack(len(raw), 0) + raw
    if isinstance(expected, dict):
        assert next(decoder.feed(stream)).header == expected
    else:
        with pytest.raises(FrameError):
            list(decoder.feed(stream))


@pytest.mark.parametrize(
    ("header_bytes", "body_bytes"),
    [
        (0, 0),
        (1, 0),
        (MAX_HEADER_BYTES + 1, 0),
        (2**32 - 1, 0),
        (2, MAX_BODY_BYTES + 1),
        (2, 2**32 - 1),
    ],
)
def test_lengths_over_a_bound_are_refused_before_anything_is_buffered(
    header_bytes: int, body_bytes: int
) -> None:
    with pytest.raises(FrameError, match="bytes"):
        list(FrameDecoder().feed(struct.pack(">II", header_bytes, body_bytes)))


def test_lengths_on_the_bound_are_accepted() -> None:
    decoder = FrameDecoder(max_body_bytes=10)
    assert list(decoder.feed(encode({}, b"0123456789"))) == [Frame({}, b"0123456789")]
    with pytest.raises(FrameError):
        list(decoder.feed(encode({}, b"0123456789A")))
    text = "a" * (MAX_HEADER_BYTES - len('{"a":""}'))
    assert list(FrameDecoder().feed(encode({"a": text}))) == [Frame({"a": text})]


def test_encode_refuses_what_the_other_side_would_refuse() -> None:
    with pytest.raises(FrameError, match="header"):
        encode({"a": "a" * MAX_HEADER_BYTES})
    with pytest.raises(FrameError, match="body"):
        encode({}, bytes(MAX_BODY_BYTES + 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_encode_refuses_numbers_that_json_does_not_have(value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode({"a": value})


def test_deeply_nested_header_is_a_frame_error_not_a_crash() -> None:
    raw = b"[" * 200_000
    with pytest.raises(FrameError):
        list(FrameDecoder().feed(PREFIX.pack(len(raw), 0) + raw))
