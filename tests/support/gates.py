"""Places at which a process under test can be held, and proof that it was there.

A test arms a gate by name; the first process that comes to it is held there until the test opens
it, and the test sees that somebody stands there. Files in one folder carry it all: they survive
every kill, need no connection, and a rename decides who was first.

    test:     gates.arm("uploaded") ... gates.wait_hit("uploaded"), kill something, gates.open()
    process:  await gates.come("uploaded")
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import anyio

LOOK_EVERY_S = 0.005
# A gate that nobody opens would hold a process for ever after a failed test.
LONGEST_HOLD_S = 60.0


class Gates:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # The test's side ------------------------------------------------------------------------------

    def arm(self, name: str) -> None:
        """Hold the first one who comes to `name`."""
        self._path(name, "open").unlink(missing_ok=True)
        self._path(name, "hit").unlink(missing_ok=True)
        self._path(name, "armed").touch()

    def hit(self, name: str) -> bool:
        return self._path(name, "hit").exists()

    def open(self, name: str) -> None:
        """Let through who stands there, and everybody from now on."""
        self._path(name, "armed").unlink(missing_ok=True)
        self._path(name, "open").touch()

    # The process's side ---------------------------------------------------------------------------

    async def come(self, name: str) -> None:
        """Pass, or be held without holding up the event loop."""
        if self._first(name):
            with anyio.move_on_after(LONGEST_HOLD_S):
                while not self._path(name, "open").exists():
                    await anyio.sleep(LOOK_EVERY_S)

    async def keep_off(self, name: str) -> None:
        """Wait while `name` is armed, or somebody is held there.

        For a place at which nobody holds the job: others must not carry it past meanwhile.
        """
        with anyio.move_on_after(LONGEST_HOLD_S):
            while self._path(name, "armed").exists() or self._held(name):
                await anyio.sleep(LOOK_EVERY_S)

    def _held(self, name: str) -> bool:
        return self._path(name, "hit").exists() and not self._path(name, "open").exists()

    def come_blocking(self, name: str) -> None:
        """The same for code without an event loop."""
        if self._first(name):
            deadline = time.monotonic() + LONGEST_HOLD_S
            while not self._path(name, "open").exists() and time.monotonic() < deadline:
                time.sleep(LOOK_EVERY_S)

    def _first(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            self._path(name, "armed").rename(self._path(name, "hit"))
            return True
        return False

    def _path(self, name: str, what: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.{what}"
