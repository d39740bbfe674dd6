"""Database and broker themselves, for operator commands that the API has no endpoint for.

Addresses come from the environment, `.env`, or the `dreamforge up` that runs on our DF_HOME.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

from cli import config
from cli.errors import USAGE, Failure

if TYPE_CHECKING:  # at run time the clients cost a quarter of a second
    from shared.db.engine import Connection
    from shared.dispatch.dead_letters import DeadMessages
    from shared.settings import Settings

T = TypeVar("T")


def require(environ: Mapping[str, str], name: str) -> str:
    """The value of a setting, or Failure that says where to get one."""
    value = environ.get(name)
    if not value:
        raise Failure(
            f"{name} is not set and no stack runs on {config.home(environ).path}",
            hint=f"start one with `dreamforge up`, or set {name}",
        )
    return value


def settings(environ: Mapping[str, str], *, exit_code: int = USAGE) -> Settings:
    """Every setting of the services, or Failure with a line per one that is missing or wrong."""
    from pydantic import ValidationError

    from shared.settings import Settings, describe, describe_removed

    if lines := describe_removed(environ):
        raise Failure("\n".join(lines), exit_code=exit_code)
    values = {
        name.removeprefix("DF_").lower(): value
        for name, value in environ.items()
        if name.startswith("DF_")
    }
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise Failure("\n".join(describe(error)), exit_code=exit_code) from None


def database_url(environ: Mapping[str, str]) -> str:
    return require(environ, "DF_DATABASE_URL")


def transaction(database_url: str, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` in one transaction. Raises InfraUnavailable."""
    import anyio

    from shared.db.engine import Database

    async def main() -> T:
        database = Database(database_url, pool_size=1, application="dreamforge-cli")
        try:
            return await database.transaction(work)
        finally:
            await database.close()

    return anyio.run(main)


def dead_messages(redis_url: str) -> closing[DeadMessages]:
    from shared.dispatch.dead_letters import DeadMessages

    return closing(DeadMessages(redis_url))
