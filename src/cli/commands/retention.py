"""`dreamforge prune`: one pass of the pruning that a worker does once a day."""

from contextlib import closing
from typing import Annotated

import typer

from cli import backends, config
from cli.commands.options import Out
from cli.errors import Failure
from cli.terminal.output import Output
from cli.terminal.tables import print_record


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only, delete nothing.")] = False,
    output: Out = Output.TABLE,
) -> None:
    """Delete what is past its age: pictures, events, jobs, usage, dead workers, stray objects."""
    from dataclasses import asdict

    from shared import retention
    from shared.object_store import open_store

    settings = backends.settings(config.environ())
    with closing(open_store(settings)) as store:
        pruned = backends.with_database(
            settings.database_url.get_secret_value(),
            lambda database: retention.prune(database, store, settings, dry_run=dry_run),
        )
    if pruned is None:
        raise Failure("somebody else prunes this database now; try again later")
    counts = asdict(pruned)
    print_record(
        {"dry_run": dry_run, **counts},
        output,
        ("would delete" if dry_run else "deleted", ""),
        ("pictures", counts["artifacts"]),
        ("inputs", counts["inputs"]),
        ("webhooks", counts["deliveries"]),
        ("events", counts["events"]),
        ("jobs", counts["jobs"]),
        ("rows of usage", counts["usage"]),
        ("workers that are gone", counts["workers"]),
        ("objects without a row", counts["orphans"]),
    )
