"""`dreamforge usage`: what was used, by day, user and model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.client.connect import connect
from cli.commands import completion
from cli.commands.options import Out
from cli.terminal.output import Output
from cli.terminal.tables import print_list

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
_SUMS = ("pictures", "run_seconds", "wait_seconds", "device_byte_seconds")
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
            [*_tag(row), *_cells(row["day"], row["user"], row["model"] or "-", row)] for row in rows
        ]
        if len(rows) > 1:
            blank = [""] * len(_tag(rows[0]))
            table.append([*blank, *_cells("total", "", "", _total(rows))])
        print_list({"usage": rows}, output, (_TAG_HEAD, *_HEADS) if tag else _HEADS, table)


def _tag(row: dict[str, Any]) -> list[str]:
    """The cell of a row's tag, where it has one."""
    tag = row.get("tag")
    return [] if tag is None else [f"{tag['key']}={tag['value'] or ''}"]


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    jobs = {status: sum(row["jobs"][status] for row in rows) for status in rows[0]["jobs"]}
    return {"jobs": jobs} | {name: sum(row[name] for row in rows) for name in _SUMS}


def _cells(day: str, user: str, model: str, row: dict[str, Any]) -> list[str]:
    jobs = row["jobs"]
    counts = (jobs["succeeded"], jobs["failed"], jobs["cancelled"], row["pictures"])
    gb_hours = row["device_byte_seconds"] / _GB_HOUR
    seconds = [f"{row[name]:.1f}" for name in ("run_seconds", "wait_seconds")]
    return [day, user, model, *map(str, counts), *seconds, f"{gb_hours:.3f}"]
