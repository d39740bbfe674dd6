"""Inject faults into the in-memory twins of the store and the object store, by name of the call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from shared.errors import InfraUnavailable


@dataclass(slots=True)
class Hold:
    """A call that waits: `reached` is set when a caller waits, `release` lets all callers go on."""

    reached: anyio.Event = field(default_factory=anyio.Event)
    released: anyio.Event = field(default_factory=anyio.Event)

    def release(self) -> None:
        self.released.set()


class Faults:
    """A twin asks it at the start of every call, and again before it returns."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._away: set[str] = set()
        self._answer_lost: dict[str, int] = {}
        self._holds: dict[str, Hold] = {}
        self.calls: list[str] = []

    @contextmanager
    def away(self, *calls: str) -> Iterator[None]:
        """Inside the block these calls raise `InfraUnavailable` and do nothing."""
        self._away.update(calls)
        try:
            yield
        finally:
            self._away.difference_update(calls)

    def lose_answer(self, call: str, times: int = 1) -> None:
        """The call does its work, then raises `InfraUnavailable`: a commit without an answer."""
        self._answer_lost[call] = times

    def hold(self, call: str) -> Hold:
        """Make callers wait before the call does anything, until `release`.

        With `"<call>:answer"` they wait after it has done everything.
        """
        self._holds[call] = hold = Hold()
        return hold

    async def before(self, call: str) -> None:
        self.calls.append(call)
        await anyio.lowlevel.checkpoint()
        await self._wait(call)
        if call in self._away:
            raise InfraUnavailable(f"{self._part}: {call} is away")

    async def after(self, call: str) -> None:
        await self._wait(f"{call}:answer")
        if self._answer_lost.get(call, 0) > 0:
            self._answer_lost[call] -= 1
            raise InfraUnavailable(f"{self._part}: the answer of {call} was lost")

    async def _wait(self, place: str) -> None:
        if (hold := self._holds.get(place)) is not None:
            hold.reached.set()
            await hold.released.wait()
