"""Which webhooks a process sends next: of each user and host no more than it has places for.

An index over (user, host, next_at) finds what is due host by host: a receiver that is away, with
thousands of messages, costs the others nothing. A claim walks a bounded number of each user's
hosts, and the next one goes on behind them: a user with thousands of hosts costs other users
nothing. It leaves out users and hosts that have no place free.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db import tables as t
from shared.db.deliveries import Delivery, delivery_of
from shared.db.tables import columns_of

# Of each user, in one claim.
MAX_HOSTS = 256

# Users and hosts one after the other, each by one look into the index.
_WALK = text(
    """
    WITH RECURSIVE users AS (
        (SELECT "user" FROM deliveries WHERE next_at IS NOT NULL ORDER BY "user" LIMIT 1)
        UNION ALL
        SELECT (SELECT d."user" FROM deliveries AS d
                WHERE d.next_at IS NOT NULL AND d."user" > users."user" ORDER BY d."user" LIMIT 1)
        FROM users WHERE users."user" IS NOT NULL
    ), pairs AS (
        SELECT users."user", 1 AS number,
            (SELECT d.host FROM deliveries AS d
             WHERE d.next_at IS NOT NULL AND d."user" = users."user"
                 AND d.host > coalesce(walked.host, '') ORDER BY d.host LIMIT 1) AS host
        FROM users
        LEFT JOIN unnest(CAST(:after_users AS text[]), CAST(:after_hosts AS text[]))
            AS walked("user", host) ON walked."user" = users."user"
        WHERE users."user" IS NOT NULL AND users."user" <> ALL(CAST(:busy AS text[]))
        UNION ALL
        SELECT pairs."user", pairs.number + 1,
            (SELECT d.host FROM deliveries AS d
             WHERE d.next_at IS NOT NULL AND d."user" = pairs."user" AND d.host > pairs.host
             ORDER BY d.host LIMIT 1)
        FROM pairs WHERE pairs.host IS NOT NULL AND pairs.number < :max_hosts
    )
    SELECT "user", host FROM pairs WHERE host IS NOT NULL ORDER BY number
    """
)
# Of each of these pairs a few that are due, then no more of a host and of a user than it has places
# free. The rows are locked, so that their places hold: by their keys PostgreSQL may read the table
# whole.
_CLAIM = text(
    f"""
    WITH due AS (
        SELECT tid FROM (
            SELECT each.tid, each.next_at, pair.of_host, pair.of_user,
                row_number() OVER (PARTITION BY pair.host ORDER BY each.next_at) AS in_host,
                row_number() OVER (PARTITION BY pair."user" ORDER BY each.next_at) AS in_user
            FROM unnest(
                CAST(:users AS text[]), CAST(:hosts AS text[]),
                CAST(:of_users AS integer[]), CAST(:of_hosts AS integer[])
            ) AS pair("user", host, of_user, of_host)
            CROSS JOIN LATERAL (
                SELECT d.ctid AS tid, d.next_at FROM deliveries AS d
                WHERE d."user" = pair."user" AND d.host = pair.host AND d.next_at <= now()
                ORDER BY d.next_at LIMIT least(pair.of_host, pair.of_user)
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS each
        ) AS ranked
        WHERE in_host <= of_host AND in_user <= of_user
        ORDER BY next_at LIMIT :limit
    )
    UPDATE deliveries AS d
    SET attempts = d.attempts + 1, next_at = now() + :lease_s * interval '1 second'
    FROM jobs AS j
    WHERE d.ctid = ANY (ARRAY(SELECT tid FROM due)) AND j.id = d.job_id
    RETURNING {", ".join(f'd."{each.name}"' for each in columns_of(t.deliveries, Delivery))},
        j.webhook->>'url' AS url
    """  # noqa: S608 - names of columns
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InFlight:
    """How many messages of each host, or user, are being sent, and how many may be."""

    counts: Mapping[str, int]
    most: int

    def places(self, name: str) -> int:
        return self.most - self.counts.get(name, 0)

    @property
    def busy(self) -> list[str]:
        return [name for name in self.counts if self.places(name) <= 0]


async def claim(
    connection: AsyncConnection,
    *,
    limit: int,
    hosts: InFlight,
    users: InFlight,
    after: Mapping[str, str],
    lease_s: float,
) -> tuple[list[Delivery], dict[str, str]]:
    """Take up to `limit` messages that are due, of each host and user what it has places for.

    They are due again after `lease_s`, unless their attempt is settled before. The second value is
    `after` for the next claim: by user the last host that was walked, where more are behind it.
    """
    walk = await connection.execute(
        _WALK,
        {
            "busy": users.busy,
            "after_users": list(after),
            "after_hosts": list(after.values()),
            "max_hosts": MAX_HOSTS,
        },
    )
    walked: dict[str, list[str]] = {}
    for user, host in walk:
        walked.setdefault(user, []).append(host)
    behind = {user: after[user] for user in users.busy if user in after}
    behind |= {user: each[-1] for user, each in walked.items() if len(each) == MAX_HOSTS}
    pairs = [
        (user, host) for user, each in walked.items() for host in each if hosts.places(host) > 0
    ]
    if not pairs:
        return [], behind
    rows = await connection.execute(
        _CLAIM,
        {
            "users": [user for user, _ in pairs],
            "hosts": [host for _, host in pairs],
            "of_users": [users.places(user) for user, _ in pairs],
            "of_hosts": [hosts.places(host) for _, host in pairs],
            "limit": limit,
            "lease_s": lease_s,
        },
    )
    return [delivery_of(row) for row in rows.mappings()], behind
