"""The parts themselves, for commands of the operator that the API has no endpoint for.

Addresses come from the environment, `.env`, or the `dreamforge up` that runs on our DF_HOME.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from cli import config
from cli.errors import Failure

if TYPE_CHECKING:  # at run time the clients cost a quarter of a second
    from shared.db.engine import Connection
    from shared.dispatch.dead_letters import DeadMessages
    from shared.settings import Settings

T = TypeVar("T")


def environ() -> dict[str, str]:
    return config.with_running_stack(config.effective())


def require(environ: Mapping[str, str], name: str) -> str:
    """The value of a setting, or Failure that says where to get one."""
    value = environ.get(name)
    if not value:
        raise Failure(
            f"{name} is not set and no stack runs on {config.home(environ).path}",
            hint=f"start one with `dreamforge up`, or set {name}",
        )
    return value


def settings(environ: Mapping[str, str]) -> Settings:
    """Every setting, or Failure with a line per one that is missing or wrong."""
    from pydantic import ValidationError

    from shared.settings import Settings, describe, describe_removed

    if lines := describe_removed(environ):
        raise Failure("\n".join(lines))

    try:
        return Settings.model_validate(
            {
                name.removeprefix("DF_").lower(): value
                for name, value in environ.items()
                if name.startswith("DF_")
            }
        )
    except ValidationError as error:
        raise Failure("\n".join(describe(error))) from None


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


@contextmanager
def dead_messages(redis_url: str) -> Iterator[DeadMessages]:
    from shared.dispatch.dead_letters import DeadMessages

    found = DeadMessages(redis_url)
    try:
        yield found
    finally:
        found.close()
