"""`dreamforge usage`: what was used, by day, user and model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli.client.connect import connect
from cli.commands import completion
from cli.commands.options import Out
from cli.terminal.output import Output
from cli.terminal.tables import print_list

if TYPE_CHECKING:
    from dreamforge_client import answers

_HEADS = (
    "day",
    "user",
    "model",
    "ok",
    "failed",
    "cancelled",
    "pictures",
    "run s",
    "wait s",
    "GB h",
)
_TAG_HEAD = "tag"
_GB_HOUR = 1e9 * 3600


def usage(
    since: Annotated[
        str | None, typer.Option("--from", help="First day (UTC), like 2026-01-31.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last day; default: today.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name or name@version.", autocompletion=completion.models),
    ] = None,
    user: Annotated[str | None, typer.Option(help="With an admin key: only this user.")] = None,
    tag: Annotated[
        str | None,
        typer.Option(
            metavar="KEY[=VALUE]",
            help="By the values of a tag, or jobs of one value; DF_USAGE_TAGS names the keys.",
        ),
    ] = None,
    output: Out = Output.TABLE,
) -> None:
    """Show jobs, pictures, seconds and device memory used, of the last 30 days."""
    with connect() as client:
        rows = client.usage(since=since, until=until, model=model, user=user, tag=tag)
        table = [
            [*_tag(row, tag), row["day"], row["user"], row["model"] or "-", *_cells([row])]
            for row in rows
        ]
        if len(rows) > 1:
            table.append([*([""] if tag else []), "total", "", "", *_cells(rows)])
        print_list({"usage": rows}, output, (_TAG_HEAD, *_HEADS) if tag else _HEADS, table)


def _tag(row: answers.Usage, asked: str | None) -> list[str]:
    """The cell of a row's tag, where tags were asked for."""
    tag = row.get("tag")
    return [f"{tag['key']}={tag['value'] or ''}" if tag else ""] if asked else []


def _cells(rows: list[answers.Usage]) -> list[str]:
    """The sums of some rows."""
    jobs = [row["jobs"] for row in rows]
    counts = (
        sum(each["succeeded"] for each in jobs),
        sum(each["failed"] for each in jobs),
        sum(each["cancelled"] for each in jobs),
        sum(row["pictures"] for row in rows),
    )
    seconds = (
        sum(row["run_seconds"] for row in rows),
        sum(row["wait_seconds"] for row in rows),
    )
    gb_hours = sum(row["device_byte_seconds"] for row in rows) / _GB_HOUR
    return [*map(str, counts), *(f"{each:.1f}" for each in seconds), f"{gb_hours:.3f}"]
