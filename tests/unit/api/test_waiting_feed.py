"""What a stream says while its job waits, and when it asks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.line_steps import line_step

from api.schemas.responses import QueueOut, SecondsOut
from api.waiting.answer import queue_out
from api.waiting.feed import QueueFeed
from api.waiting.forecast import Place, Span
from shared.db.waiting import LineStep
from shared.errors import InfraUnavailable
from shared.events import Code


@dataclass
class Line:
    """A line with one step, or none; counts how often it is asked."""

    step: LineStep | None = field(default_factory=line_step)
    position: int = 3
    away: bool = False
    asked: int = 0
    read: bool = False  # the part of the line that the job is in

    async def of_job(self, job_id: UUID) -> QueueOut | None:
        return await self.of_step(line_step()) if self.read else None

    async def step_of(self, job_id: UUID) -> LineStep | None:
        self.asked += 1
        if self.away:
            raise InfraUnavailable("away")
        return self.step

    async def of_step(self, step: LineStep) -> QueueOut:
        return QueueOut(position=self.position, exact=True, starts_in_s=None)


def check(test: Callable[[], Awaitable[None]]) -> None:
    anyio.run(test)


def position(message: bytes | None) -> int | None:
    if message is None:
        return None
    (data,) = [text for text in message.decode().splitlines() if text.startswith("data: ")]
    found: int = json.loads(data.removeprefix("data: "))["payload"]["position"]
    return found


def test_a_place_is_said_when_it_has_changed() -> None:
    async def test() -> None:
        line = Line()
        feed = QueueFeed(line, uuid4())
        assert position(await feed.message()) == 3
        assert await feed.message() is None
        line.position = 2
        assert position(await feed.message()) == 2

    check(test)


def test_a_job_in_the_part_that_was_read_is_looked_up_nowhere_else() -> None:
    async def test() -> None:
        line = Line(read=True)
        assert position(await QueueFeed(line, uuid4()).message()) == 3
        assert line.asked == 0

    check(test)


def test_a_job_that_does_not_wait_is_asked_about_once() -> None:
    async def test() -> None:
        line = Line(step=None)
        feed = QueueFeed(line, uuid4())
        for _ in range(3):
            assert await feed.message() is None
        assert (line.asked, feed.may_wait) == (1, False)

    check(test)


@pytest.mark.parametrize("code", [Code.RETRY, Code.LEASE_EXPIRED, Code.STEP_FINISH])
def test_a_claimed_step_is_silent_until_a_step_may_wait_again(code: Code) -> None:
    async def test() -> None:
        line = Line()
        feed = QueueFeed(line, uuid4())
        await feed.message()
        feed.see(Code.STEP_CLAIMED)
        line.position = 1
        assert await feed.message() is None
        feed.see(code)
        feed.see(Code.PROGRESS)
        assert position(await feed.message()) == 1
        assert line.asked == 2

    check(test)


def test_a_database_that_is_away_ends_no_stream() -> None:
    async def test() -> None:
        line = Line(away=True)
        feed = QueueFeed(line, uuid4())
        assert await feed.message() is None
        line.away = False
        assert position(await feed.message()) == 3

    check(test)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.0, 1.2, (0, 2)),
        (12.9, 40.1, (12, 41)),
        (123.0, 1234.0, (120, 1300)),
        (99.5, 99.5, (99, 100)),
    ],
)
def test_seconds_are_rounded_outwards_to_two_digits(
    low: float, high: float, shown: tuple[int, int]
) -> None:
    place = Place(position=1, exact=True, starts_in_s=Span(low=low, high=high))
    assert queue_out(place, 0.0).starts_in_s == SecondsOut(low=shown[0], high=shown[1])


def test_the_age_of_what_was_read_is_taken_off_and_no_time_is_negative() -> None:
    place = Place(position=1, exact=True, starts_in_s=Span(low=0.5, high=10.5))
    assert queue_out(place, 0.9).starts_in_s == SecondsOut(low=0, high=10)
    place = Place(position=1, exact=True, starts_in_s=Span(low=0.0, high=0.5))
    assert queue_out(place, 0.9).starts_in_s == SecondsOut(low=0, high=1)
