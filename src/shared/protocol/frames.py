"""The frames between a worker and a runner: length-prefixed, a JSON header and raw bytes.

    +----------------+----------------+----------------+---------------+
    | header length  | body length    | header         | body          |
    | u32, big end.  | u32, big end.  | UTF-8 JSON     | raw bytes     |
    +----------------+----------------+----------------+---------------+

Sans-IO: `encode` makes bytes, `FrameDecoder` takes them in pieces of any size. The reader never
trusts the writer. It checks both lengths *before* it buffers anything for them, the header must be
one JSON object, and nothing is ever unpickled: a runner executes the models of strangers, and with
a pickle it could run code in the worker.

Images travel in the body. Against a file, shared memory or base64 in the header this was the
fastest way measured, and it leaves nothing on a disk when either side is killed.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PREFIX = struct.Struct(">II")
# A header is a few hundred bytes; a log line or a 4096-character prompt in a RunSpec is the most
# that it carries. UTF-8 may take four bytes per character, JSON escapes up to twelve.
MAX_HEADER_BYTES = 256 * 1024
# A 4096 x 4096 RGB image that does not compress at all is 48 MiB.
MAX_BODY_BYTES = 64 * 1024 * 1024


class FrameError(Exception):
    """The other side broke the protocol. The connection must not be used any more."""


@dataclass(frozen=True, slots=True)
class Frame:
    header: dict[str, Any]
    body: bytes = b""


def encode(header: dict[str, Any], body: bytes = b"") -> bytes:
    """Return the bytes of one frame; raise `FrameError` when it is over a bound."""
    encoded = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    if len(encoded) > MAX_HEADER_BYTES:
        raise FrameError(f"header of {len(encoded)} bytes, at most {MAX_HEADER_BYTES}")
    if len(body) > MAX_BODY_BYTES:
        raise FrameError(f"body of {len(body)} bytes, at most {MAX_BODY_BYTES}")
    return PREFIX.pack(len(encoded), len(body)) + encoded + body


class FrameDecoder:
    """Turns a byte stream into frames. After a `FrameError` it must not be used again."""

    def __init__(self, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._buffer = bytearray()
        self._max_body_bytes = max_body_bytes

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take some bytes; yield every frame that they complete."""
        self._buffer += data
        while (frame := self._next()) is not None:
            yield frame

    def eof(self) -> None:
        """The stream ended: raise `FrameError` if it did so inside a frame."""
        if self._buffer:
            raise FrameError(f"the stream ended inside a frame, {len(self._buffer)} bytes in")

    def _next(self) -> Frame | None:
        if len(self._buffer) < PREFIX.size:
            return None
        header_size, body_size = PREFIX.unpack_from(self._buffer)
        if not 2 <= header_size <= MAX_HEADER_BYTES:
            raise FrameError(f"header of {header_size} bytes, must be 2 to {MAX_HEADER_BYTES}")
        if body_size > self._max_body_bytes:
            raise FrameError(f"body of {body_size} bytes, at most {self._max_body_bytes}")
        end = PREFIX.size + header_size + body_size
        if len(self._buffer) < end:
            return None
        header = _parse(bytes(self._buffer[PREFIX.size : PREFIX.size + header_size]))
        body = bytes(self._buffer[PREFIX.size + header_size : end])
        del self._buffer[:end]
        return Frame(header, body)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise FrameError(f"the header is a JSON {type(header).__name__}, not an object")
    return header
