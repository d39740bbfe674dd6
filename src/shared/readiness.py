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
from shared.db.tables import missing_migration, schemas_with_our_tables
from shared.errors import InfraUnavailable
from shared.object_store import StoreRefused, open_store
from shared.retry import retry
from shared.settings import Settings

RETRY_S = 0.5
# What a server, a pooler or libpq says of an address that has to change; what to change in it.
_TO_CHANGE = {
    "unsupported startup parameter": (
        "the pooler before PostgreSQL refuses what the address says after `?`: take it out, and "
        "set it with ALTER ROLE … SET"
    ),
    "statement pooling mode": "let the pooler pool by transaction or by session",
    "certificate verify failed": (
        "the server's certificate is from no authority in sslrootcert: name the file of the one "
        "that signed it"
    ),
    "root certificate file": "name the file of your certificate authority with sslrootcert",
    "does not match host name": (
        "sslmode=verify-full compares names: write the name that is in the server's certificate"
    ),
    "server does not support SSL": "switch TLS on at the server, or take sslmode out",
}

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
        await _require_options(database, database_url)
        await _require_schema(database, database_url)
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
        for said, advice in _TO_CHANGE.items():
            if said in problem:
                raise NotReady(f"{setting}: {problem} at {address_of(url)}; {advice}") from error

    with anyio.move_on_after(settings.startup_timeout_s):
        await retry(ping, on=InfraUnavailable, pauses=repeat(RETRY_S), on_failure=remember)
        return
    raise NotReady(
        f"{setting}: {problem} at {address_of(url)} (waited {settings.startup_timeout_s:g} s)"
    )


async def _require_sessions(database: Database, url: str) -> None:
    """What holds for a session must not be lost unseen."""
    if not await database.knows_sessions():
        raise NotReady(
            f"DF_DATABASE_URL: the pooler at {address_of(url)} gives each transaction another "
            "session, and shows process ids as if it did not; let it pool by session, or name "
            "PostgreSQL's own address"
        )


async def _require_options(database: Database, url: str) -> None:
    if ignored := await database.ignored_options():
        raise NotReady(
            f"DF_DATABASE_URL: {', '.join(ignored)} in `options` has no effect, since a pooler at "
            f"{address_of(url)} drops it; take it out, and set it with ALTER ROLE … SET"
        )


async def _require_schema(database: Database, url: str) -> None:
    if (missing := await database.transaction(missing_migration)) is None:
        return
    elsewhere = await database.transaction(schemas_with_our_tables)
    if elsewhere:
        raise NotReady(
            f"DF_DATABASE_URL: the tables at {address_of(url)} are in the schema "
            f"{', '.join(elsewhere)}, which is not in the search_path of this role, or closed to "
            "it; set it with ALTER ROLE … SET search_path, for this role and for that of "
            "DF_ADMIN_DATABASE_URL, or run `dreamforge migrate` for tables in another schema"
        )
    raise NotReady(
        f"DF_DATABASE_URL: the schema at {address_of(url)} is not at revision "
        f"{missing}; run `dreamforge migrate`"
    )
