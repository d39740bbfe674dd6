"""Is the schema one that this release can work on?

Its own, or a newer one: migrations only add what the release before can live with
(docs/migrations.md), so a process of that release which crashes during a roll-out must come back.
"""

from __future__ import annotations

import logging

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.engine import Database

log = logging.getLogger(__name__)

# The newest migration. Written here, so that a service needs neither Alembic nor the migrations;
# `test_migrations` compares the two. Revisions are numbered with four digits, so they sort.
REVISION = "0005"


async def missing_migration(database: Database) -> str | None:
    """The revision that the database lacks, None when it has it. Raises `InfraUnavailable`."""

    async def work(connection: AsyncConnection) -> str | None:
        table = await connection.scalar(text("SELECT to_regclass('alembic_version')"))
        if table is None:
            return None
        revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        return None if revision is None else str(revision)

    applied = await database.transaction(work)
    if applied is None or applied < REVISION:
        return REVISION
    if applied > REVISION:
        log.warning(
            "the schema is at revision %s, of a newer release than this one (%s)", applied, REVISION
        )
    return None
