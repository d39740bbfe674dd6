"""Gates at which a test holds a process, with proof that the process reached them.

A test arms a gate by name. The first process that reaches the gate waits there until the test opens
it, and the test sees that it waits. The state is files in one folder: they survive every kill, need
no connection, and a rename decides which process was first.

    test:     gates.arm("uploaded") ... gates.is_reached("uploaded"), kill something, gates.open()
    process:  await gates.wait_at("uploaded")
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import anyio

POLL_EVERY_S = 0.005
# Without a limit, a failed test would leave a process at its gate for ever.
LONGEST_HOLD_S = 60.0


class Gates:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # The test's side ------------------------------------------------------------------------------

    def arm(self, name: str) -> None:
        """Hold the first process that reaches `name`."""
        self._path(name, "open").unlink(missing_ok=True)
        self._path(name, "hit").unlink(missing_ok=True)
        self._path(name, "armed").touch()

    def is_reached(self, name: str) -> bool:
        return self._path(name, "hit").exists()

    def open(self, name: str) -> None:
        """Let the waiting process pass, and every later one."""
        self._path(name, "armed").unlink(missing_ok=True)
        self._path(name, "open").touch()

    # The process's side ---------------------------------------------------------------------------

    async def wait_at(self, name: str) -> None:
        """Pass, or wait without blocking the event loop."""
        if self._first(name):
            with anyio.move_on_after(LONGEST_HOLD_S):
                while not self._path(name, "open").exists():
                    await anyio.sleep(POLL_EVERY_S)

    async def wait_while_closed(self, name: str) -> None:
        """Wait while `name` is armed, or another process waits there.

        For a gate at which no process owns the job, so that no other takes it past the gate.
        """
        with anyio.move_on_after(LONGEST_HOLD_S):
            while self._path(name, "armed").exists() or self._held(name):
                await anyio.sleep(POLL_EVERY_S)

    def _held(self, name: str) -> bool:
        return self._path(name, "hit").exists() and not self._path(name, "open").exists()

    def wait_at_blocking(self, name: str) -> None:
        """As `wait_at`, for code without an event loop."""
        if self._first(name):
            deadline = time.monotonic() + LONGEST_HOLD_S
            while not self._path(name, "open").exists() and time.monotonic() < deadline:
                time.sleep(POLL_EVERY_S)

    def _first(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            self._path(name, "armed").rename(self._path(name, "hit"))
            return True
        return False

    def _path(self, name: str, what: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.{what}"
