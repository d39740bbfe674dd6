"""A job's log as NDJSON, page by page: memory stays one page, whatever the log's length."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, get_args

from api.schemas.requests import LogsQuery
from api.schemas.responses import Level
from api.streaming.encoding import log_line
from shared.db import events
from shared.db.engine import Database
from shared.db.events import Event
from shared.db.jobs import Job
from shared.errors import InvalidInput

PAGE = 500
LEVELS: tuple[Level, ...] = get_args(Level)


class JobLog:
    """The lines of a job's log that a query selects, up to the event that was the last one when
    `job` was read: the log of a running job grows, and the answer must end."""

    def __init__(self, database: Database, job: Job, query: LogsQuery) -> None:
        """Raises `InvalidInput` for a moment that cannot be read."""
        self._database = database
        self._last_seq = job.event_seq
        self._tail = query.tail
        self._selection: dict[str, Any] = {
            "job_id": job.id,
            "since": None if query.since_ts is None else parse_moment(query.since_ts),
            "levels": None if query.level is None else LEVELS[LEVELS.index(query.level) :],
        }

    async def first_page(self) -> list[Event]:
        """Read it before the response begins, so that an absent database is a clean 503."""
        after = 0
        if self._tail is not None:
            after = await self._database.transaction(
                events.tail, **self._selection, count=self._tail
            )
        return await self._page(after)

    async def lines(self, page: list[Event]) -> AsyncGenerator[bytes]:
        """All lines from `page` on, joined to one chunk a page."""
        while page:
            yield b"".join(log_line(event) for event in page if event.seq <= self._last_seq)
            if len(page) < PAGE or page[-1].seq >= self._last_seq:
                return
            page = await self._page(page[-1].seq)

    async def _page(self, after: int) -> list[Event]:
        return await self._database.transaction(
            events.page, **self._selection, after=after, limit=PAGE
        )


def parse_moment(text: str) -> datetime:
    """ISO 8601, UTC unless it says otherwise. Raises `InvalidInput`."""
    # In a query string a bare "+" is a space; "…T12:00:00+00:00" is what people paste.
    restored = text.replace(" ", "+") if "T" in text else text
    try:
        moment = datetime.fromisoformat(restored)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid_moment() from None


def invalid_moment() -> InvalidInput:
    return InvalidInput("since_ts: must be ISO 8601, like 2026-01-31T12:00:00Z", field="since_ts")
