"""Frames over one end of a socketpair, without blocking the event loop."""

import socket
from collections import deque
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel

from shared.protocol.frames import Frame, FrameDecoder, FrameError, encode

# One read of this size moves a typical image in a handful of system calls.
READ_BYTES = 1 << 20


class Truncated(FrameError):
    """The stream ended inside a frame: most often because its writer was killed."""


class Channel:
    """The worker's end of a channel to a child.

    One task may receive. Several may send: their frames do not interleave.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = FrameDecoder()
        self._frames: deque[Frame] = deque()
        self._broken: FrameError | None = None
        self._sending = anyio.Lock()

    async def receive(self) -> Frame | None:
        """The next frame, or None at the end of the stream.

        Raises `FrameError` when the other side broke the protocol, after every frame that came
        before it; `Truncated` for an end inside a frame.
        """
        # Available data is read without waiting. Without this checkpoint, a child that never stops
        # sending would own the event loop, and the timers that are to kill it would not fire.
        await anyio.lowlevel.checkpoint()
        while not self._frames:
            if self._broken is not None:
                raise self._broken
            data = await self._read()
            if not data:
                self._check_end()
                return None
            self._decode(data)
        return self._frames.popleft()

    def _decode(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._frames.append(frame)
        except FrameError as error:
            self._broken = error

    def _check_end(self) -> None:
        try:
            self._decoder.eof()
        except FrameError as error:
            raise Truncated(str(error)) from None

    async def send(self, header: Mapping[str, Any], body: bytes = b"") -> None:
        """Write one frame; raise `OSError` when the other side is gone."""
        data = memoryview(encode(dict(header), body))
        async with self._sending:
            while data:
                try:
                    sent = self._sock.send(data)
                except BlockingIOError:
                    await anyio.wait_writable(self._sock)
                else:
                    data = data[sent:]

    def send_now(self, header: Mapping[str, Any]) -> bool:
        """Write one small frame if that needs no wait; False when it was not written.

        Raises `OSError` when the other side is gone.
        """
        if self._sending.locked():
            return False
        data = encode(dict(header))
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            return False
        # A local socket takes what fits into one of its buffers whole, or not at all.
        if sent != len(data):
            raise OSError(f"{sent} of {len(data)} bytes of a frame were taken")
        return True

    def send_descriptors(self, header: Mapping[str, Any], descriptors: list[int]) -> None:
        """Write one small frame with open descriptors, to a side that has read all before it.

        Raises `OSError` when the other side is gone, or has no room.
        """
        data = encode(dict(header))
        if socket.send_fds(self._sock, [data], descriptors) != len(data):
            raise OSError("a part of a frame was taken")

    async def _read(self) -> bytes:
        while True:
            try:
                return self._sock.recv(READ_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
            except ConnectionResetError:
                return b""  # the other side was killed before it read our bytes: also an end

    def close(self) -> None:
        self._sock.close()
