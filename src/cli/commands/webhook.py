"""`dreamforge webhook …`: messages to receivers that wait, or were given up.

Like the dead letters of jobs they are the operator's: the commands speak to PostgreSQL directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cli import backends, config
from cli.commands.options import Out
from cli.terminal.output import Output
from cli.terminal.tables import print_list, print_record

if TYPE_CHECKING:
    from shared.db.deliveries import Delivery

app = typer.Typer(no_args_is_help=True, help="Webhooks: those given up, and those that wait.")

Message = Annotated[str, typer.Argument(metavar="ID", help="An id of the list.")]
State = Annotated[
    Literal["dead", "waiting", "delivered"], typer.Option(help="Which: those given up, or others.")
]


@app.command("list")
def list_(
    state: State = "dead",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 100,
    output: Out = Output.TABLE,
) -> None:
    """List webhooks, the latest on top."""
    from shared.db import deliveries
    from shared.states import DeliveryState

    found = backends.transaction(_url(), deliveries.page, DeliveryState(state), limit=limit)
    rows = list(map(_record, found))
    columns = ("id", "event", "host", "attempts", "last_error")
    print_list(
        {"webhooks": rows}, output, columns, [[row[name] or "" for name in columns] for row in rows]
    )


@app.command()
def replay(message: Message, output: Out = Output.TABLE) -> None:
    """Send one again that was given up, with its id, for another day."""
    from shared.db import deliveries

    delivery = backends.transaction(_url(), deliveries.replay, *deliveries.parse_id(message))
    print_record(_record(delivery), output)


@app.command()
def drop(message: Message, output: Out = Output.TABLE) -> None:
    """Delete one that was given up."""
    from shared.db import deliveries

    backends.transaction(_url(), deliveries.drop, *deliveries.parse_id(message))
    print_record({"id": message, "dropped": True}, output, ("dropped", message))


def _url() -> str:
    return backends.database_url(config.environ())


def _record(delivery: Delivery) -> dict[str, Any]:
    due = delivery.next_at
    return {
        "id": delivery.id,
        "job_id": str(delivery.job_id),
        "event": delivery.event.value,
        "state": delivery.state.value,
        "user": delivery.user,
        "host": delivery.host,
        "attempts": delivery.attempts,
        "created_at": delivery.created_at.isoformat(timespec="milliseconds"),
        "next_at": None if due is None else due.isoformat(timespec="milliseconds"),
        "last_error": delivery.last_error,
    }
