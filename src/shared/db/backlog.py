"""How many steps wait, by device, priority and user.

What is read is bounded, whatever the number of steps: a loose index scan over `ix_steps_waiting`
finds the groups with one descent each, `MAX_GROUPS` at most, and `MAX_COUNTED` rows are counted in
all, as many of each group. They are counted in an index's order (see `shared.db.jobs`).
"""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.jobs import MAX_COUNTED
from shared.db.tables import read
from shared.states import Priority

MAX_GROUPS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """`waiting` steps of one user and priority; at least so many where it is not `exact`."""

    device: str
    priority: str
    user: str
    waiting: int
    exact: bool


_GROUP = 's.device, s.priority, s."user"'
_OF_ALL = f"""
WITH RECURSIVE found AS (
    (SELECT {_GROUP}, 1 AS n FROM steps AS s WHERE s.state = 'queued' ORDER BY {_GROUP} LIMIT 1)
    UNION ALL
    SELECT following.*, f.n + 1 FROM found AS f CROSS JOIN LATERAL (
        SELECT {_GROUP} FROM steps AS s
        WHERE s.state = 'queued' AND ({_GROUP}) > (f.device, f.priority, f."user")
        ORDER BY {_GROUP} LIMIT 1
    ) AS following
    WHERE f.n < :groups
), groups AS (SELECT device, priority, "user" FROM found)
"""  # noqa: S608 - constants of this file, as below
_OF_ONE = f"""
WITH groups AS (
    SELECT device, priority, CAST(:user AS text) AS "user"
    FROM unnest(ARRAY['cpu', 'cuda']) AS device
    CROSS JOIN unnest(ARRAY[{", ".join(f"'{each}'" for each in Priority)}]) AS priority
)
"""  # noqa: S608
_COUNTS = f"""
SELECT g.device, g.priority, g."user", least(c.seen, m.most) AS waiting, c.seen <= m.most AS exact
FROM groups AS g
CROSS JOIN (SELECT :counted / greatest(count(*), 1) AS most FROM groups) AS m
CROSS JOIN LATERAL (
    SELECT count(*) AS seen FROM (
        SELECT FROM steps AS s
        WHERE s.state = 'queued' AND ({_GROUP}) = (g.device, g.priority, g."user")
        ORDER BY s.created_at, s.id LIMIT m.most + 1
    ) AS few
) AS c
WHERE c.seen > 0
ORDER BY g.device,
    CASE g.priority {" ".join(f"WHEN '{each}' THEN {n}" for n, each in enumerate(Priority))} END,
    g."user"
"""  # noqa: S608
_ALL = text(_OF_ALL + _COUNTS)
_ONE = text(_OF_ONE + _COUNTS)


async def waiting_by_user(connection: AsyncConnection, *, user: str | None) -> list[Waiting]:
    """The steps that wait, those of one user or of all (None), by device, priority, then user."""
    if user is None:
        rows = await connection.execute(_ALL, {"counted": MAX_COUNTED, "groups": MAX_GROUPS})
    else:
        rows = await connection.execute(_ONE, {"counted": MAX_COUNTED, "user": user})
    return [read(Waiting, row) for row in rows]
