"""Which webhooks a claim takes: no user's receivers keep it from another user's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import anyio
import psycopg
import pytest
from tests.support.database import empty_tables
from tests.support.queue_rows import Rows, make

from shared.db import delivery_claim
from shared.db.deliveries import Delivery
from shared.db.delivery_claim import InFlight
from shared.db.engine import Database

PER_HOST, PER_USER, AT_ONCE = 4, 16, 64
FEW_HOSTS = 10


class Table:
    """Deliveries, made one a job; and a process that claims some, and sees no end of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._jobs = 0
        self.hosts: Counter[str] = Counter()
        self.users: Counter[str] = Counter()
        self.after: Mapping[str, str] = {}

    def add(self, count: int, user: str, host: str, *, due: bool = True) -> None:
        """The host may name the number of the message."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(
                """INSERT INTO deliveries (job_id, seq, "user", host, event, payload, state,
                    next_at, expires_at)
                SELECT id, 1, %s, format(%s, lpad(number::text, 4, '0')), 'end', '{}', 'waiting',
                    now() + %s * interval '1 hour', now() + interval '1 day'
                FROM (SELECT id, row_number() OVER (ORDER BY id) - %s AS number FROM jobs) AS each
                WHERE number BETWEEN 1 AND %s""",
                (user, host, -1 if due else 1, self._jobs, count),
            )
        self._jobs += count

    def claim(self) -> Counter[str]:
        """How many of each user."""

        async def main() -> list[Delivery]:
            database = Database(self._url)
            try:
                claimed, self.after = await database.transaction(
                    delivery_claim.claim,
                    limit=AT_ONCE - self.users.total(),
                    hosts=InFlight(counts=self.hosts, most=PER_HOST),
                    users=InFlight(counts=self.users, most=PER_USER),
                    after=self.after,
                    lease_s=600.0,
                )
            finally:
                await database.close()
            return claimed

        claimed = anyio.run(main)
        self.hosts.update(each.host for each in claimed)
        self.users.update(each.user for each in claimed)
        return Counter(each.user for each in claimed)


@pytest.fixture
def table(migrated_url: str) -> Iterator[Table]:
    make(migrated_url, Rows(waiting=500))
    yield Table(migrated_url)
    empty_tables(migrated_url)


def test_a_user_with_many_ports_takes_the_places_of_one_user(table: Table) -> None:
    table.add(300, "flood", "a.example:%s")
    table.add(2, "quiet", "z.example")
    assert table.claim() == {"flood": PER_USER, "quiet": 2}
    table.add(3, "quiet", "z.example")
    assert table.claim() == {"quiet": 2}  # two of its host are in flight already


def test_a_host_gets_no_more_than_its_places_whoever_asks(table: Table) -> None:
    table.hosts["shared.example"] = PER_HOST - 1
    table.add(5, "one", "shared.example")
    table.add(5, "two", "shared.example")
    assert table.claim().total() == 1
    assert table.claim().total() == 0
    assert table.hosts == {"shared.example": PER_HOST}


def test_a_claim_walks_a_few_hosts_of_each_user_and_the_next_one_those_behind(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_claim, "MAX_HOSTS", FEW_HOSTS)
    table.add(2 * FEW_HOSTS, "flood", "a%s.example", due=False)
    table.add(1, "flood", "b.example")
    table.add(1, "quiet", "z.example")
    assert table.claim() == {"quiet": 1}
    table.users["flood"] = PER_USER
    assert table.claim() == {}  # a busy user loses its place on the walk as little
    del table.users["flood"]
    assert [table.claim() for _ in range(2)] == [{}, {"flood": 1}]
    assert table.after == {}
