"""`dreamforge usage`: what was used, by day, user and model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.client.connect import connect
from cli.commands import completion
from cli.commands.options import Out
from cli.terminal.output import Output
from cli.terminal.tables import print_list

if TYPE_CHECKING:
    from cli.client.http import Client

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
    output: Out = Output.TABLE,
) -> None:
    """Show jobs, pictures, seconds and device memory used, of the last 30 days."""
    filters = {"from": since, "to": until, "model": model, "user": user}
    with connect() as client:
        rows = _all(client, filters)
    table = [_cells(row["day"], row["user"], row["model"] or "-", row) for row in rows]
    if len(rows) > 1:
        table.append(_cells("total", "", "", _total(rows)))
    print_list({"usage": rows}, output, _HEADS, table)


def _all(client: Client, filters: dict[str, str | None]) -> list[dict[str, Any]]:
    """The rows of every page."""
    rows: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = client.get("/v1/usage", **filters, cursor=cursor)
        rows += page["usage"]
        if (cursor := page["next_cursor"]) is None:
            return rows


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    jobs = {status: sum(row["jobs"][status] for row in rows) for status in rows[0]["jobs"]}
    return {"jobs": jobs} | {name: sum(row[name] for row in rows) for name in _SUMS}


def _cells(day: str, user: str, model: str, row: dict[str, Any]) -> list[str]:
    jobs = row["jobs"]
    counts = (jobs["succeeded"], jobs["failed"], jobs["cancelled"], row["pictures"])
    gb_hours = row["device_byte_seconds"] / _GB_HOUR
    seconds = [f"{row[name]:.1f}" for name in ("run_seconds", "wait_seconds")]
    return [day, user, model, *map(str, counts), *seconds, f"{gb_hours:.3f}"]
