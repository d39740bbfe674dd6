"""Bring the schema to this release's revision, one process at a time: docs/migrations.md."""

import logging
import time
from itertools import repeat
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from migrations.roles import become_owner, grant_rows
from shared.db.connect import connect_args, driver_url
from shared.errors import InfraUnavailable
from shared.retry import within

# Any fixed number: it names "Dream Forge migrates" among the advisory locks of this database.
ADVISORY_LOCK = 0x44464D49
# A migration that waits for a table's lock makes claims and creates wait behind it.
LOCK_TIMEOUT_S = 5.0
# Longer than any migration of ours should take; one that hangs must not make the next one hang.
TURN_TIMEOUT_S = 600.0
LOOK_EVERY_S = 0.5

log = logging.getLogger(__name__)


def alembic_config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["database_url"] = driver_url(database_url)
    return config


def upgrade(database_url: str, admin_url: str | None = None) -> None:
    """Apply every missing migration. A second process waits for the first, then finds it done.

    With `admin_url` the role of `database_url` is made one that owns nothing (`roles.py`). Without,
    it must own the schema. Raises `InfraUnavailable` when the server cannot be reached, or when the
    first one takes too long.
    """
    url = admin_url or database_url
    config = alembic_config(url)
    engine = create_engine(driver_url(url), connect_args=connect_args(url, "dreamforge-migrate"))
    try:
        with engine.connect() as connection:
            _wait_for_turn(connection)
            # After the advisory lock, whose wait for the migration before us may be long. Both
            # belong to the session, not to this transaction.
            connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_S * 1000:.0f}"))
            connection.commit()
            if admin_url is not None:
                become_owner(connection, database_url)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
            if admin_url is not None:
                grant_rows(connection, database_url)
    except DBAPIError as error:
        if error.statement is not None and not isinstance(error, OperationalError):
            raise
        # Also a wrong password or a missing database: the server's first line says which.
        reason = str(error.orig).splitlines()[0]
        raise InfraUnavailable(f"PostgreSQL cannot be used: {reason}") from error
    finally:
        engine.dispose()


def _wait_for_turn(connection: Connection) -> None:
    """Take the advisory lock, by polling. Each attempt is a transaction of its own: `CREATE INDEX
    CONCURRENTLY` would wait for one that waits, and nothing would be logged meanwhile."""
    attempts = within(TURN_TIMEOUT_S, repeat(LOOK_EVERY_S))
    for number, pause_s in enumerate(attempts):
        if connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}):
            return
        connection.commit()
        if number == 0:
            log.warning("another process migrates this database: waiting for it to finish")
        time.sleep(pause_s)
    raise InfraUnavailable(
        f"another process has been migrating this database for {TURN_TIMEOUT_S:g} s; "
        "look for another `dreamforge migrate`, or its session in pg_stat_activity"
    )


def check(database_url: str) -> None:
    """Raise when the tables in code differ from what the migrations make (`alembic check`)."""
    command.check(alembic_config(database_url))
