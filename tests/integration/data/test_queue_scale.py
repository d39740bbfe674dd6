"""What is done to the queue reads a few rows, however many there are: no table whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest
from tests.support.database import empty_tables
from tests.support.queue_rows import CAPACITY_BYTES, MODELS, Rows, end_all, make

from shared.db import deliveries, jobs, retention
from shared.db.backlog import waiting_by_user
from shared.db.create_job import create_job
from shared.db.deliveries import Delivery
from shared.db.delivery_claim import InFlight, claim
from shared.db.engine import Database
from shared.db.insert_job import NewJob, NewStep
from shared.db.step_store import PostgresStepStore
from shared.db.transitions import request_cancel
from shared.states import Reason, Status, StepState
from shared.step_store import AttemptResult, ClaimRequest, OrphanedStep

pytestmark = pytest.mark.timeout(300)

WAITING, UNFIT, ENDED = 4000, 8000, 8000
# After some executions PostgreSQL may keep one plan for all parameters.
TIMES = 12
# Rows that one call may read; a fraction of what there is, and more than any of them needs.
FEW = 700
FEW_ENTRIES = 3000
# How often one of these counts up to its bound.
COUNTS = {"list_by_tag": 4, "count": 1, "count_by_user": 2}
HOUR_S = 3600.0
OLDEST = "00000001-0000-4000-8000-000000000000"
REQUEST = ClaimRequest(
    worker_id=uuid4(),
    slot="cpu-0",
    queues=("default",),
    device="cuda",
    capacity_bytes=CAPACITY_BYTES,
    models=tuple(UUID(f"00000000-0000-4000-8000-{n:012d}") for n in range(MODELS)),
    lease_s=600.0,
)
DONE = AttemptResult(state=StepState.SUCCEEDED, reason=Reason.COMPLETED, attempt=1, losses=0)


class Queue:
    """A full queue, and each thing that is done to it."""

    def __init__(self, database: Database, url: str) -> None:
        self.database = database
        self.store = PostgresStepStore(database)
        self._url = url

    async def claim(self) -> None:
        assert await self.store.claim(REQUEST) is not None

    async def look_ahead(self) -> None:
        assert len(await self.store.due_next(REQUEST, 3)) == 3

    async def work(self) -> None:
        claim = await self.store.claim(REQUEST)
        assert claim is not None
        await self.store.commit_running(claim, [])
        await self.store.renew(claim, 600.0)
        await self.store.requested_cancels(REQUEST.worker_id)
        await self.store.release_unacknowledged(uuid4(), set())
        await self.store.finish(claim, DONE)

    async def create_and_cancel(self) -> None:
        new = new_job()
        await self.database.transaction(create_job, new)
        await self.database.transaction(request_cancel, new.id)

    async def list_pages(self) -> None:
        assert await self.database.transaction(jobs.page, user="user0", limit=50)
        running = self.database.transaction(
            jobs.page, user="user0", status=Status.RUNNING, limit=50
        )
        assert not await running

    async def list_by_tag(self) -> None:
        async def page(*tags: tuple[str, str]) -> int:
            found = await self.database.transaction(jobs.page, user="user0", tags=tags, limit=50)
            return len(found)

        assert await page(("project", "all")) == 50
        assert await page(("project", "all"), ("colour", "red")) == 50
        assert await page(("order", OLDEST)) == 1
        assert await page(("project", "all"), ("colour", "red"), ("order", OLDEST)) == 1
        assert await page(("project", "none")) == 0

    async def deliver(self) -> None:
        """One receiver is away, with thousands of messages; the other's is due."""
        free, transaction = InFlight(counts={}, most=50), self.database.transaction

        def take(busy: str) -> Awaitable[tuple[list[Delivery], dict[str, str]]]:
            hosts = InFlight(counts={busy: 4}, most=4)
            return transaction(claim, limit=50, hosts=hosts, users=free, after={}, lease_s=60)

        (claimed,), _ = await take("away:80")
        assert claimed.host == "here:80"
        await transaction(deliveries.failed, claimed, "why", pause_s=0.0)
        assert len((await take("here:80"))[0]) == 4

    async def count(self) -> None:
        assert await self.database.transaction(jobs.unfinished_jobs, "user0", up_to=100) == 100
        assert await self.database.transaction(jobs.queue_depth) == jobs.MAX_COUNTED

    async def count_by_user(self) -> None:
        rows = await self.database.transaction(waiting_by_user, user=None)
        assert len({(row.user, row.priority) for row in rows}) == 6
        assert sum(row.waiting for row in rows) <= jobs.MAX_COUNTED
        assert not any(row.exact for row in rows)
        assert await self.database.transaction(waiting_by_user, user="user0")

    async def sweep(self) -> None:
        assert await self.store.rescue_expired(never) is None
        assert await self.store.rescue_unclaimed(never, 48 * HOUR_S) is None

    async def prune(self) -> None:
        transaction, old_s = self.database.transaction, 1.5 * HOUR_S
        assert not await transaction(retention.delete_artifacts, age_s=old_s, limit=500)
        assert not await transaction(retention.delete_events, age_s=old_s, limit=500)
        assert not await transaction(retention.delete_jobs, age_s=48 * HOUR_S, limit=100)

    def rows_read(self) -> dict[str, int]:
        """By table, since it was made; and of the indexes of what waits, which can answer alone."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            return dict(
                connection.execute(
                    "SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)"
                    " FROM pg_stat_user_tables"
                    " WHERE relname IN ('jobs', 'job_tags', 'deliveries', 'steps', 'events',"
                    " 'artifacts')"
                    " UNION ALL SELECT indexrelname, coalesce(idx_tup_read, 0)"
                    " FROM pg_stat_user_indexes"
                    " WHERE indexrelname IN ('ix_steps_line', 'ix_steps_waiting')"
                ).fetchall()
            )

    def has_session(self) -> bool:
        with psycopg.connect(self._url, autocommit=True) as connection:
            query = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'scale'"
            return connection.execute(query).fetchone() is not None


def never(_: OrphanedStep) -> AttemptResult:
    raise AssertionError("nothing is to be rescued here")


def new_job() -> NewJob:
    step = NewStep(
        id=uuid4(),
        name="generate",
        type="generate",
        params={},
        queue="default",
        device="cuda",
        preset={},
        vram_bytes=1,
        timeout_s=60.0,
        model_id=REQUEST.models[0],
        checkpoint_sha256="0" * 64,
    )
    return NewJob(
        id=uuid4(),
        type="generate",
        user="user0",
        request={},
        count=1,
        correlation_id="c",
        steps=[step],
    )


@pytest.fixture(scope="module", params=["vacuumed", "just-written"])
def full_url(migrated_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A queue whose oldest steps fit no slot, half of them just ended, beside jobs that ended.

    While another transaction may still see the tables without them, no page is marked as visible to
    all: reading an index is dearer then, and reading a whole table is not.
    """
    with psycopg.connect(migrated_url) as older:
        if request.param == "just-written":
            older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            older.execute("SELECT 1")
        make(migrated_url, Rows(waiting=WAITING, classes=60, unfit=UNFIT, ended=ENDED, events=True))
        tag(migrated_url)
        report(migrated_url)
        as_written(migrated_url)
    yield migrated_url
    empty_tables(migrated_url)


def as_written(url: str) -> None:
    """What has ended lies in front of what waits."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CLUSTER jobs USING pk_jobs")
        connection.execute("VACUUM ANALYZE jobs")


def report(url: str) -> None:
    """Every ended job has a message for a receiver that is away; the oldest one for another."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """UPDATE jobs SET webhook = '{"url": "http://x/", "events": ["end"]}'
            WHERE status = 'succeeded'"""
        )
        connection.execute(
            """INSERT INTO deliveries (job_id, seq, "user", host, event, payload, state, next_at,
                expires_at)
            SELECT id, 1, "user", CASE WHEN id = %s THEN 'here:80' ELSE 'away:80' END, 'end', '{}',
                'waiting', now() - interval '1 hour', now() + interval '1 day'
            FROM jobs WHERE status = 'succeeded'""",
            (OLDEST,),
        )
        connection.execute("VACUUM ANALYZE jobs, deliveries")


def tag(url: str) -> None:
    """Every job gets the same two tags, and one that is its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """UPDATE jobs SET tags = jsonb_build_object('project', 'all', 'colour', 'red',
            'order', id)"""
        )
        connection.execute(
            """INSERT INTO job_tags ("user", key, value, created_at, job_id)
            SELECT "user", tag.key, tag.value, created_at, id
            FROM jobs CROSS JOIN jsonb_each_text(tags) AS tag"""
        )
        connection.execute("VACUUM ANALYZE jobs, job_tags")


@pytest.mark.parametrize(
    "act",
    [
        Queue.claim,
        Queue.look_ahead,
        Queue.work,
        Queue.create_and_cancel,
        Queue.list_pages,
        Queue.list_by_tag,
        Queue.deliver,
        Queue.count,
        Queue.count_by_user,
        Queue.sweep,
        Queue.prune,
    ],
    ids=lambda act: act.__name__,
)
def test_no_table_is_read_whole(full_url: str, act: Callable[[Queue], Awaitable[None]]) -> None:
    anyio.run(read_few_rows, full_url, act)


def test_a_claim_goes_past_what_has_just_ended_once(full_url: str) -> None:
    """The first claim reads the dead entries in front, and marks them for those that follow."""
    assert list(end_all(full_url, at_once=UNFIT)) == [UNFIT]

    async def main() -> None:
        database = Database(full_url, pool_size=1, application="scale")
        try:
            await Queue(database, full_url).claim()
        finally:
            await database.close()
        await read_few_rows(full_url, Queue.claim)

    anyio.run(main)


async def read_few_rows(url: str, act: Callable[[Queue], Awaitable[None]]) -> None:
    database = Database(url, pool_size=1, application="scale")
    queue = Queue(database, url)
    before = queue.rows_read()
    try:
        for _ in range(TIMES):
            await act(queue)
    finally:
        await database.close()
    with anyio.fail_after(60):
        while queue.has_session():  # it reports what it read when it ends
            await anyio.sleep(0.05)
    after = queue.rows_read()
    counted = COUNTS.get(act.__name__, 0) * jobs.MAX_COUNTED
    for table, rows in after.items():
        few = FEW_ENTRIES if table.startswith("ix") else FEW + counted
        assert rows - before[table] < few * TIMES, table
