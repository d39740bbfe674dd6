"""Bring the schema to this release's revision, one process at a time: docs/migrations.md."""

import logging
import time
from itertools import repeat
from pathlib import Path

from alembic import command
from alembic.config import Config
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from migrations.roles import become_owner, grant_rows
from shared.db.connect import DRIVER, connector
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
    config.attributes["engine"] = _engine(database_url)
    return config


def upgrade(database_url: str, admin_url: str | None = None) -> None:
    """Apply every missing migration. A second process waits for the first, then finds it done.

    With `admin_url` the role of `database_url` is made one that owns nothing (`roles.py`). Without,
    it must own the schema. Raises `InfraUnavailable` when the server cannot be reached, or when the
    first one takes too long.
    """
    url = admin_url or database_url
    setting = "DF_ADMIN_DATABASE_URL" if admin_url else "DF_DATABASE_URL"
    config = alembic_config(url)
    engine: Engine = config.attributes["engine"]
    try:
        with engine.connect() as connection:
            _require_session(engine, connection, setting)
            _require_current_schema(connection, setting)
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
        if isinstance(error.orig, InsufficientPrivilege):
            reason = str(error.orig).splitlines()[0]
            raise InfraUnavailable(
                f"the role of {setting} may not change the schema ({reason}); migrate with "
                "DF_ADMIN_DATABASE_URL, or with the role that owns the tables"
            ) from error
        if error.statement is not None and not isinstance(error, OperationalError):
            raise
        # Also a wrong password or a missing database: the server's first line says which.
        reason = str(error.orig).splitlines()[0]
        raise InfraUnavailable(f"PostgreSQL cannot be used: {reason}") from error
    finally:
        engine.dispose()


def _engine(database_url: str) -> Engine:
    return create_engine(DRIVER, creator=connector(database_url, "dreamforge-migrate"))


def _require_session(engine: Engine, connection: Connection, setting: str) -> None:
    """A lock, a role and a time-out are set for the session: it must be ours until the end.

    Behind a pooler two connections are used in turn: by transaction they meet each other's server
    process.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    if _server_process(connection) == driver.info.backend_pid:
        return
    with engine.connect() as other:
        seen = [(_server_process(connection), _server_process(other)) for _ in range(3)]
    one, another = map(set, zip(*seen, strict=True))
    if len(one) > 1 or len(another) > 1 or one == another:
        raise InfraUnavailable(
            f"{setting}: the pooler before PostgreSQL gives each transaction another session, and "
            "a migration needs one; give `dreamforge migrate` PostgreSQL's own address"
        )


def _server_process(connection: Connection) -> int:
    pid: int = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    connection.rollback()
    return pid


def _require_current_schema(connection: Connection, setting: str) -> None:
    if connection.scalar(text("SELECT current_schema()")) is None:
        path = connection.scalar(text("SHOW search_path"))
        raise InfraUnavailable(
            f"{setting}: the search_path of this role, {path}, names no schema that is there and "
            "open to it; make it with CREATE SCHEMA, or correct the search_path"
        )


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
