"""What a child writes to its standard streams: text for the operator, in the worker's own log.

A child that inherits our streams can write a line that passes for ours, as much of it as it likes,
and what it does to their files it does to us: a flag such as O_NONBLOCK belongs to the open file,
which all who inherit it share. So it has a pipe of its own (`child.child_main`). What is there is
read whenever the loop has time, with a pause after so many bytes; who writes faster waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

# A traceback has 2 KiB. A pipe holds 64 KiB, so a pause stops nobody who has a little to say.
BURST_BYTES = 1 << 16
PAUSE_S = 1.0


class Output:
    """The reading end of a child's standard streams. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._read_fd, write_fd = os.pipe()  # closed by every exec, as all descriptors of Python's
        os.set_blocking(self._read_fd, False)
        self.write_end: Connection = Connection(write_fd, readable=False)
        self.fields: dict[str, str] = {}  # whom the lines are about
        self._left = BURST_BYTES
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._read_fd, self._read)

    def close(self) -> None:
        """Log what is there still and give the descriptors back."""
        self._left = BURST_BYTES
        self._read()
        self._stop()
        self.write_end.close()
        os.close(self._read_fd)

    def _read(self) -> None:
        try:
            data = os.read(self._read_fd, self._left)
        except BlockingIOError:
            return
        if not data:  # nobody can write any more
            self._stop()
            return
        if text := data.decode(errors="replace").strip():
            log.warning("a child wrote: %s", text, extra=self.fields)
        self._left -= len(data)
        if self._left == 0:
            self._stop()
            self._pause = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._left = BURST_BYTES
        self._loop.add_reader(self._read_fd, self._read)

    def _stop(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._read_fd)
