"""A job's log as NDJSON, page by page: memory stays one page, whatever the log's length."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from api.schemas.requests import LogsQuery
from api.streaming.encoding import log_line
from shared.db import events
from shared.db.engine import Database
from shared.db.events import Event
from shared.errors import InvalidInput

PAGE = 500
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which lines of a log. `until` is the last `seq` when asked: a live log must end somewhere."""

    job_id: UUID
    until: int
    since: datetime | None
    levels: tuple[str, ...] | None
    tail: int | None


def select(job_id: UUID, until: int, query: LogsQuery) -> Selection:
    return Selection(
        job_id=job_id,
        until=until,
        since=None if query.since_ts is None else parse_moment(query.since_ts),
        levels=None if query.level is None else LEVELS[LEVELS.index(query.level) :],
        tail=query.tail,
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
        raise no_moment() from None


def no_moment() -> InvalidInput:
    return InvalidInput("since_ts: must be ISO 8601, like 2026-01-31T12:00:00Z", field="since_ts")


async def first_page(database: Database, chosen: Selection) -> list[Event]:
    """Read before the response begins, so that an absent database is a clean 503."""
    after = 0
    if chosen.tail is not None:
        tail = chosen.tail
        after = await database.transaction(
            lambda connection: events.tail(
                connection, chosen.job_id, count=tail, since=chosen.since, levels=chosen.levels
            )
        )
    return await _page(database, chosen, after)


async def lines(database: Database, chosen: Selection, page: list[Event]) -> AsyncGenerator[bytes]:
    """All lines from `page` on, joined to one chunk a page."""
    while page:
        yield b"".join(log_line(event) for event in page if event.seq <= chosen.until)
        if len(page) < PAGE or page[-1].seq >= chosen.until:
            return
        page = await _page(database, chosen, page[-1].seq)


async def _page(database: Database, chosen: Selection, after: int) -> list[Event]:
    return await database.transaction(
        lambda connection: events.page(
            connection,
            chosen.job_id,
            after=after,
            since=chosen.since,
            levels=chosen.levels,
            limit=PAGE,
        )
    )
