"""The runner's end of the socketpair: frames in, frames out, plain blocking I/O.

Never `Connection.send`/`recv`: those pickle. A containerised or remote runner would plug in at the
descriptor: the bytes on it are always those of `shared.protocol.frames`.
"""

import os
import socket
import threading
from collections import deque
from typing import Protocol

from shared.protocol.frames import Frame, FrameDecoder, FrameError, encode
from shared.protocol.messages import FromRunner, Input, ToRunner, parse_to_runner

READ_BYTES = 1 << 20  # one read of this size moves a typical input in a handful of system calls


class Emit(Protocol):
    """Send one message to the worker; `body` is an artifact's encoded image."""

    def __call__(self, message: FromRunner, body: bytes = b"") -> None: ...


class Channel:
    """One reader at a time; any thread may send."""

    def __init__(self, fd: int) -> None:
        # A descriptor of its own: the Connection closes the other one when it is collected.
        self._socket = socket.socket(fileno=os.dup(fd))
        self._socket.setblocking(True)
        self._decoder = FrameDecoder()
        self._frames: deque[Frame] = deque()
        self._sending = threading.Lock()

    def receive(self) -> tuple[ToRunner, bytes] | None:
        """Wait for the next message and its body; None when the worker has closed its end.

        Raises `FrameError` for anything that is not of the protocol.
        """
        while not self._frames:
            data = self._socket.recv(READ_BYTES)
            if not data:
                self._decoder.eof()
                return None
            self._frames.extend(self._decoder.feed(data))
        frame = self._frames.popleft()
        message = parse_to_runner(frame.header)
        if frame.body and not isinstance(message, Input):
            raise FrameError(f"{message.type} with a body of {len(frame.body)} bytes")
        return message, frame.body

    def send(self, message: FromRunner, body: bytes = b"") -> None:
        """Write one frame; blocks while the worker is slow, which slows the step, not the host."""
        data = encode(message.model_dump(), body)
        with self._sending:
            self._socket.sendall(data)

    def close(self) -> None:
        self._socket.close()
