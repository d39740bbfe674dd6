"""Database and broker themselves, for operator commands that the API has no endpoint for.

Addresses come from the environment, `.env`, or the `dreamforge up` that runs on our DF_HOME.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from cli import config
from cli.errors import USAGE, Failure
from shared.addresses import check_broker, check_database
from shared.environment import without_blanks

if TYPE_CHECKING:  # at run time the clients cost a quarter of a second
    from shared.db.engine import Connection, Database
    from shared.dispatch.dead_letters import DeadMessages
    from shared.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


def settings(environ: Mapping[str, str], *, exit_code: int = USAGE) -> Settings:
    """Every setting of the services, or Failure with a line per one that is missing or wrong."""
    from pydantic import ValidationError

    from shared.settings import Settings, describe
    from shared.settings_removed import describe_removed

    if lines := describe_removed(environ):
        raise Failure("\n".join(lines), exit_code=exit_code)
    values = {
        name.removeprefix("DF_").lower(): value
        for name, value in without_blanks(environ).items()
        if name.startswith("DF_")
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise Failure("\n".join(describe(error)), exit_code=exit_code) from None


def database_url(environ: Mapping[str, str]) -> str:
    """The database's address, or Failure that says where to get one, or what is odd about it."""
    url = environ.get("DF_DATABASE_URL")
    if not url:
        raise Failure(
            f"DF_DATABASE_URL is not set and no stack runs on {config.home(environ).path}",
            hint="start one with `dreamforge up`, or set DF_DATABASE_URL",
        )
    return _checked("DF_DATABASE_URL", url, check_database)


def admin_url(environ: Mapping[str, str]) -> str | None:
    """The address of the role that makes roles, where one is set, or Failure for what is none."""
    url = environ.get("DF_ADMIN_DATABASE_URL")
    return _checked("DF_ADMIN_DATABASE_URL", url, check_database) if url else None


def _checked(setting: str, text: str, check: Callable[[str], str]) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise Failure(f"{setting}: {error}") from None


def with_database(database_url: str, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` with the database, in an event loop of its own. Raises InfraUnavailable."""
    import anyio

    from shared.db.engine import Database

    async def main() -> T:
        database = Database(database_url, pool_size=2, application="dreamforge-cli")
        try:
            return await work(database)
        finally:
            await database.close()

    return anyio.run(main)


def transaction(
    database_url: str,
    work: Callable[Concatenate[Connection, P], Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run `work(connection, *args, **kwargs)` in one transaction. Raises InfraUnavailable."""
    return with_database(database_url, lambda database: database.transaction(work, *args, **kwargs))


def dead_messages(redis_url: str) -> closing[DeadMessages]:
    """The broker's list. Raises Failure for an address that is none."""
    from shared.dispatch.dead_letters import DeadMessages

    return closing(DeadMessages(_checked("DF_REDIS_URL", redis_url, check_broker)))
