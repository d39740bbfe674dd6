"""Before a service serves: PostgreSQL with our schema, and the store with our bucket.

A service waits `DF_STARTUP_TIMEOUT_S` for each, since everything may start at once. It does not
wait for the broker, which only makes workers faster.
"""

import logging
from collections.abc import Awaitable, Callable
from itertools import repeat

import anyio

from shared.addresses import address_of
from shared.db.engine import Database
from shared.db.tables import missing_migration
from shared.errors import InfraUnavailable
from shared.object_store import StoreRefused, open_store
from shared.retry import retry
from shared.settings import Settings

RETRY_S = 0.5

log = logging.getLogger(__name__)


class NotReady(Exception):
    """One line: which setting, which address, what is wrong."""


async def wait_for_parts(settings: Settings) -> None:
    """Return when PostgreSQL and the store can be used. Raises `NotReady`."""
    database_url = settings.database_url.get_secret_value()
    database = Database(database_url, pool_size=2, application="dreamforge-start")
    store = open_store(settings)
    try:
        await _wait("DF_DATABASE_URL", database_url, database.ping, settings)
        await _require_sessions(database, database_url)
        if (missing := await database.transaction(missing_migration)) is not None:
            raise NotReady(
                f"DF_DATABASE_URL: the schema at {address_of(database_url)} is not at revision "
                f"{missing}; run `dreamforge migrate`"
            )
        if await database.is_superuser():
            log.warning(
                "DF_DATABASE_URL names a superuser, who can run programs on PostgreSQL's host; "
                "`dreamforge migrate` with DF_ADMIN_DATABASE_URL makes a role for the services"
            )
        await _wait("DF_S3_ENDPOINT", settings.s3_endpoint, store.ensure_bucket, settings)
    finally:
        await database.close()
        store.close()


async def _wait(
    setting: str, url: str, ping: Callable[[], Awaitable[object]], settings: Settings
) -> None:
    problem = "it does not answer"

    def remember(error: InfraUnavailable, _pause_s: float) -> None:
        nonlocal problem
        if isinstance(error, StoreRefused):
            raise NotReady(
                f"DF_S3_ACCESS_KEY, DF_S3_SECRET_KEY: {error} at {address_of(url)}"
            ) from error
        problem = str(error)

    with anyio.move_on_after(settings.startup_timeout_s):
        await retry(ping, on=InfraUnavailable, pauses=repeat(RETRY_S), on_failure=remember)
        return
    raise NotReady(
        f"{setting}: {problem} at {address_of(url)} (waited {settings.startup_timeout_s:g} s)"
    )


async def _require_sessions(database: Database, url: str) -> None:
    """Locks, time-outs and prepared statements belong to a session."""
    if not await database.keeps_sessions():
        raise NotReady(
            f"DF_DATABASE_URL: the pooler at {address_of(url)} gives each transaction another "
            "session; let it pool by session (PgBouncer: pool_mode = session), or name "
            "PostgreSQL's own address"
        )
