"""What ended in the last hour: how many pictures, and how long jobs had waited.

It is read from the jobs themselves, of each status the newest `MAX_COUNTED` at most, by the index
over status and end. Jobs that were deleted since do not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.states import ENDED, Status

SPANS = 12
SPAN_S = 300.0
# More are not read: what is shown are bars, and an hour in which more jobs end is a busy one.
MAX_COUNTED = 5_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Five minutes. The seconds are those from the create to the claim of jobs that ran at once:
    the median and the longest, None where no such job ended."""

    start: datetime
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    pictures: int = 0
    median_wait_s: float | None = None
    longest_wait_s: float | None = None

    @property
    def jobs(self) -> int:
        return self.succeeded + self.failed + self.cancelled


_STATUSES = ", ".join(f"'{each}'" for each in sorted(ENDED))
_COUNTS = ", ".join(
    f"count(*) FILTER (WHERE e.status = '{each}') AS {each.value}" for each in sorted(ENDED)
)
_QUERY = text(
    f"""
WITH ended AS (
    SELECT j.* FROM unnest(ARRAY[{_STATUSES}]) AS s(status)
    CROSS JOIN LATERAL (
        SELECT id, status, count, created_at, updated_at FROM jobs
        WHERE jobs.status = s.status AND updated_at > now() - make_interval(secs => :within_s)
            AND (CAST(:user AS text) IS NULL OR jobs."user" = :user)
        ORDER BY updated_at DESC LIMIT :most
    ) AS j
)
SELECT
    greatest(0, floor(extract(epoch FROM now() - e.updated_at) / :span_s))::int AS ago,
    {_COUNTS},
    sum(CASE WHEN e.status = '{Status.SUCCEEDED}' THEN e.count ELSE stored.items END) AS pictures,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY waited.s) AS median_wait_s,
    max(waited.s) AS longest_wait_s
FROM ended AS e
LEFT JOIN steps AS f ON f.job_id = e.id AND f.position = 0 AND f.attempt = 1
CROSS JOIN LATERAL (
    SELECT CASE WHEN f.claimed_at IS NOT NULL
        THEN greatest(0, extract(epoch FROM f.claimed_at - e.created_at))::float END AS s
) AS waited
CROSS JOIN LATERAL (
    SELECT count(*) AS items FROM artifacts AS a
    WHERE e.status <> '{Status.SUCCEEDED}' AND a.job_id = e.id AND a.step_id = (
        SELECT l.id FROM steps AS l WHERE l.job_id = e.id ORDER BY l.position DESC LIMIT 1
    )
) AS stored
GROUP BY ago
"""  # noqa: S608 - constants of this file
)


async def last_hour(connection: AsyncConnection, *, user: str | None) -> tuple[list[Span], bool]:
    """The spans of one user's jobs or of all (None), oldest first; and whether all were read."""
    values = {"user": user, "most": MAX_COUNTED, "span_s": SPAN_S, "within_s": SPANS * SPAN_S}
    rows = await connection.execute(_QUERY, values)
    by_age = {row["ago"]: dict(row) for row in rows.mappings()}
    now = (await connection.execute(text("SELECT now()"))).scalar_one()
    spans = list(_spans(by_age, now))
    exact = all(
        sum(getattr(span, status.value) for span in spans) < MAX_COUNTED for status in ENDED
    )
    return spans, exact


def _spans(by_age: dict[int, dict[str, object]], now: datetime) -> Iterator[Span]:
    for ago in reversed(range(SPANS)):
        start = now - timedelta(seconds=SPAN_S * (ago + 1))
        row = {name: value for name, value in by_age.get(ago, {}).items() if name != "ago"}
        yield Span(start=start, **row)  # type: ignore[arg-type]  # the query's names
