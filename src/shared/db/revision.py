"""Is the schema one that this release can work on?

Its own, or a newer one: migrations only add what the release before can live with
(docs/migrations.md), so a process of that release which crashes during a roll-out must come back.
"""

from __future__ import annotations

import logging

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.engine import Database
from shared.db.migrate import alembic_config

log = logging.getLogger(__name__)


async def missing_migration(database: Database) -> str | None:
    """The revision that the database lacks, None when it has it. Raises `InfraUnavailable`."""
    script = ScriptDirectory.from_config(alembic_config("postgresql://"))
    head = script.get_current_head()

    async def work(connection: AsyncConnection) -> str | None:
        table = await connection.scalar(text("SELECT to_regclass('alembic_version')"))
        if table is None:
            return None
        found = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        return None if found is None else str(found)

    found = await database.transaction(work)
    if found == head:
        return None
    if found is None or found in {known.revision for known in script.walk_revisions()}:
        return head
    log.warning("the schema is at revision %s, of a newer release than this one (%s)", found, head)
    return None
