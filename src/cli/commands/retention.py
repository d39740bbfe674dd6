"""`dreamforge prune`: one pass of the pruning that a worker does once a day."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from cli import backends, config
from cli.commands.options import Out
from cli.errors import Failure
from cli.terminal.output import Output, print_json
from cli.terminal.tables import print_pairs

if TYPE_CHECKING:
    from shared.retention import Pruned


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only, delete nothing.")] = False,
    output: Out = Output.TABLE,
) -> None:
    """Delete what is past its age: pictures, events, ended jobs, dead workers, stray objects."""
    from dataclasses import asdict

    counts = asdict(_prune(dry_run))
    if output is Output.JSON:
        print_json({"dry_run": dry_run, **counts})
        return
    print_pairs(
        ("would delete" if dry_run else "deleted", ""),
        ("pictures", counts["artifacts"]),
        ("events", counts["events"]),
        ("jobs", counts["jobs"]),
        ("workers that are gone", counts["workers"]),
        ("objects without a row", counts["orphans"]),
    )


def _prune(dry_run: bool) -> Pruned:
    import anyio

    from shared.db.engine import Database
    from shared.object_store import open_store
    from shared.retention import prune

    settings = backends.settings(config.environ())

    async def main() -> Pruned | None:
        database = Database(
            settings.database_url.get_secret_value(), pool_size=2, application="dreamforge-prune"
        )
        with closing(open_store(settings)) as store:
            try:
                return await prune(database, store, settings, dry_run=dry_run)
            finally:
                await database.close()

    pruned = anyio.run(main)
    if pruned is None:
        raise Failure("somebody else prunes this database now; try again later")
    return pruned
