"""`dreamforge workers`: what serves, what runs there, and what waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.client.connect import connect
from cli.commands.options import Out
from cli.terminal.output import Output, print_json, print_line, print_note
from cli.terminal.tables import print_table

if TYPE_CHECKING:
    from dreamforge_client import answers

_GB = 1e9


def workers(output: Out = Output.TABLE) -> None:
    """Show the workers that live, their slots, and how many steps wait."""
    from dreamforge_client.answers import Workers

    with connect() as client:
        answer = client.get(Workers, "/v1/workers")
        if output is Output.JSON:
            print_json(answer)
        else:
            _print_slots(answer["workers"])
            _print_queue(answer["queue"])


def _print_slots(live: Sequence[answers.Worker]) -> None:
    if not live:
        print_note("no worker lives: jobs are accepted and wait; `dreamforge worker` starts one")
        return
    rows = [_slot(worker, slot) for worker in live for slot in worker["slots"]]
    print_table(("worker", "slot", "device", "state", "memory used", "job"), rows)


def _print_queue(queue: Sequence[answers.Waiting]) -> None:
    if not queue:
        print_note("nothing waits")
        return
    print_line("")
    print_table(("waiting", "priority", "user", "device"), map(_waiting, queue))


def _slot(worker: answers.Worker, slot: answers.Slot) -> tuple[str, ...]:
    return (
        worker["host"] or worker["id"],
        slot["id"],
        slot["class"],
        slot["state"],
        _memory(slot["total_bytes"], slot["free_bytes"]),
        slot["job_id"] or "-",
    )


def _memory(total: int, free: int | None) -> str:
    used = "?" if free is None else f"{max(0, total - free) / _GB:.1f}"
    return f"{used} of {total / _GB:.1f} GB"


def _waiting(row: answers.Waiting) -> tuple[str, ...]:
    count = str(row["waiting"]) if row["exact"] else f"{row['waiting']} or more"
    return count, row["priority"], row["user"], row["device"]
