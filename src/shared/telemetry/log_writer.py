"""Lines of the log for a reader that may stand still: whoever logs never waits for it.

A pipe whose reader stands still takes 64 KiB, then a write to it returns when the reader goes on: a
pager, a terminal after Ctrl-S, a collector of logs that hangs. A worker's event loop holds the
leases of all its steps, and an api's serves all clients. So a line is written at once where it is
certain to be taken. Else it waits for a thread that writes it, up to a bound, and what is beyond
that is counted and not written.
"""

import logging
import os
import select
import threading
from collections import deque

MAX_WAITING_BYTES = 1 << 20
# At the end of the process, for what still waits.
END_WITHIN_S = 2.0


class LogWriter(logging.Handler):
    """Writes to the descriptor `fd`."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()  # the first is being written
        self._waiting_bytes = 0
        self._lost = 0
        # A daemon: a process that ends does not wait for a reader.
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:  # as every handler does: a bug in a line must not end who logs it
            self.handleError(record)
            return
        with self._changed:
            if not self._lines and self._takes(line):
                self._count(written=self._write(line))
            elif self._lines and self._waiting_bytes + len(line) > MAX_WAITING_BYTES:
                self._lost += 1
            else:
                self._append(line)

    def _takes(self, line: bytes) -> bool:
        """Whether a write of it returns at once: a pipe that has room has room for so much."""
        return len(line) <= select.PIPE_BUF and bool(self._room.poll(0))

    def flush(self) -> None:
        """Wait for what waits, but not for long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, END_WITHIN_S)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._waiting_bytes += len(line)
        self._changed.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line = self._lines[0]
            written = self._write(line)
            with self._changed:
                self._lines.popleft()
                self._waiting_bytes -= len(line)
                self._count(written=written)
                self._changed.notify_all()

    def _count(self, *, written: bool) -> None:
        """Count a line that is lost; say how many are when one is written and none waits."""
        self._lost += not written
        if written and self._lost and not self._lines:
            self._append(self._line(_lost(self._lost)))
            self._lost = 0

    def _write(self, line: bytes) -> bool:
        """False where it cannot be written: the disk is full, or the reader is gone."""
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:  # another process that has this file made it so
                select.select([], [self._fd], [])
            except OSError:
                return False
        return True


def _lost(lines: int) -> logging.LogRecord:
    message = "%d lines of the log are missing here: it was not read, or could not be written"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, (lines,), None)
