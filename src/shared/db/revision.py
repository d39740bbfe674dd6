"""Is the schema the one that this release was written for?"""

from __future__ import annotations

from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.db.engine import Database
from shared.db.migrate import alembic_config


async def missing_migration(database: Database) -> str | None:
    """The revision that the database lacks, None when it has it. Raises `InfraUnavailable`."""
    head = ScriptDirectory.from_config(alembic_config("postgresql://")).get_current_head()

    async def work(connection: AsyncConnection) -> str | None:
        table = await connection.scalar(text("SELECT to_regclass('alembic_version')"))
        if table is None:
            return None
        found = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        return None if found is None else str(found)

    return None if await database.transaction(work) == head else head
