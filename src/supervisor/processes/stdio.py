"""What a child writes to its standard streams goes into the worker's own log.

A child that inherits the worker's streams could write a line that passes for the worker's, as much
of it as it likes. A flag such as O_NONBLOCK belongs to the open file, so a child could also change
the streams of the worker. So each child has a pipe of its own (`shared.linux.child.child_main`).
The event loop reads it, and pauses after so many bytes: a child that writes faster waits.
"""

import asyncio
import logging
import os
from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

# A traceback has 2 KiB. A pipe holds 64 KiB, so the pause does not stop a child that writes little.
BURST_BYTES = 1 << 16
PAUSE_S = 1.0


class OutputReader:
    """Reads a child's standard streams. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.read_fd, write_fd = os.pipe()  # closed by every exec, as all descriptors of Python's
        os.set_blocking(self.read_fd, False)
        self.write_end: Connection = Connection(write_fd, readable=False)
        self.fields: dict[str, str] = {}  # log fields: whom the lines are about
        self._budget_bytes = BURST_BYTES
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self.read_fd, self._read)

    def close(self) -> None:
        """Log what is left in the pipe and close both ends."""
        self._budget_bytes = BURST_BYTES
        self._read()
        self._stop()
        self.write_end.close()
        os.close(self.read_fd)

    def _read(self) -> None:
        try:
            data = os.read(self.read_fd, self._budget_bytes)
        except BlockingIOError:
            return
        if not data:  # every writer has closed its end
            self._stop()
            return
        if text := data.decode(errors="replace").strip():
            log.warning("a child wrote: %s", text, extra=self.fields)
        self._budget_bytes -= len(data)
        if self._budget_bytes == 0:
            self._stop()
            self._pause = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._budget_bytes = BURST_BYTES
        self._loop.add_reader(self.read_fd, self._read)

    def _stop(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self.read_fd)
