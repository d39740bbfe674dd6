"""Bring the schema to this release's revision, one process at a time: docs/migrations.md."""

from __future__ import annotations

from pathlib import Path

import migrations
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from shared.db.engine import sync_url
from shared.errors import InfraUnavailable

# Any fixed number: it names "Dream Forge migrates" among the advisory locks of this database.
ADVISORY_LOCK = 0x44464D49
# A migration that waits for a table's lock makes everybody wait behind it, claims and creates too.
LOCK_TIMEOUT_S = 5.0


def alembic_config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["database_url"] = sync_url(database_url)
    return config


def upgrade(database_url: str) -> None:
    """Apply every missing migration. A second process waits for the first, then finds it done.

    Raises `InfraUnavailable` when the server cannot be reached.
    """
    config = alembic_config(database_url)
    engine = create_engine(sync_url(database_url), connect_args={"connect_timeout": 3})
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
            # After the advisory lock, whose wait for the migration before us may be long. Both
            # belong to the session, not to this transaction.
            connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_S * 1000:.0f}"))
            connection.commit()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except OperationalError as error:
        # Also a wrong password or a missing database: the server's first line says which.
        reason = str(error.orig).splitlines()[0]
        raise InfraUnavailable(f"PostgreSQL cannot be used: {reason}") from error
    finally:
        engine.dispose()


def check(database_url: str) -> None:
    """Raise when the tables in code differ from what the migrations make (`alembic check`)."""
    command.check(alembic_config(database_url))
