"""How a running step is stopped from inside, in rising order of force.

- `Stop.request` sets a flag that the pipeline reads between two sampling steps. A polite Cancel on
  the pipe does only this.
- SIGTERM requests it too, and sets a deadline: `TERM_DEADLINE_S` later the process ends wherever it
  is. A Python signal handler runs only when the main thread executes bytecode, which may be never
  while C code runs. So the C-level part writes a byte to the wakeup descriptor, and a thread that
  needs nothing from the main thread reads it.
- The lease timer (`runner.process.lease_timer`), which the kernel carries out.

SIGKILL from outside is the only guarantee and needs nothing from this file.
"""

import os
import signal
import socket
import threading
import time

# Long enough for one sampling step of a large model on a GPU and for the failure frame, shorter
# than any sensible grace between SIGTERM and SIGKILL (`Timings.term_grace_s`, 5 s).
TERM_DEADLINE_S = 2.0
TERM_EXIT_CODE = 128 + signal.SIGTERM


class Cancelled(Exception):
    """A stop was requested; raised between two sampling steps."""


class Stop:
    """The request to stop, shared by the threads of a runner."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def request(self) -> None:
        self._requested.set()

    def check(self) -> None:
        """Raise `Cancelled` if a stop was requested."""
        if self._requested.is_set():
            raise Cancelled

    def request_and_exit(self, deadline_s: float = TERM_DEADLINE_S) -> None:
        """Request a stop, wait `deadline_s` for the step to end, then end the process. Blocks."""
        self.request()
        time.sleep(deadline_s)
        os._exit(TERM_EXIT_CODE)


def handle_sigterm(stop: Stop) -> None:
    """Turn SIGTERM into `request_and_exit`. Call from the main thread, once."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)  # the C handler must never wait for room
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    # Without a Python-level handler the default action would run instead of the wakeup.
    signal.signal(signal.SIGTERM, _nothing)
    threading.Thread(target=_watch, args=(reader, stop), name="sigterm", daemon=True).start()


def _watch(reader: socket.socket, stop: Stop) -> None:
    reader.recv(1)
    stop.request_and_exit()


def _nothing(_signal: int, _frame: object) -> None:
    """The byte on the wakeup descriptor was enough."""
