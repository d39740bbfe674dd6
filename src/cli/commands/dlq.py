"""`dreamforge dlq …`: dead letters. Jobs from PostgreSQL, unreadable messages from the broker.

The commands speak to both directly: dead letters are the operator's, the API has no endpoint.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli import backends, config
from cli.commands.options import Out
from cli.errors import Failure
from cli.terminal.output import Output, print_note
from cli.terminal.tables import print_list, print_record

if TYPE_CHECKING:
    from shared.db.dead_letters import DeadJob
    from shared.dispatch.dead_letters import DeadMessage

app = typer.Typer(no_args_is_help=True, help="Jobs that were given up, and unreadable messages.")

Letter = Annotated[str, typer.Argument(metavar="ID", help="An id of the list.")]
_CELL_CHARACTERS = 60


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many jobs.")] = 100,
    output: Out = Output.TABLE,
) -> None:
    """List dead letters: jobs first, the latest on top."""
    from shared.db import dead_letters

    environ = config.environ()
    jobs = backends.transaction(backends.database_url(environ), dead_letters.page, limit=limit)
    messages, problem = _messages(environ)
    if problem:
        print_note(f"unreadable messages are not shown: {problem}")
    letters = [*map(_job, jobs), *map(_message, messages)]
    print_list(
        {"dead_letters": letters, "messages_shown": not problem},
        output,
        ("kind", "id", "since", "what happened"),
        [(row["kind"], row["id"], row["since"], _cell(row["reason"])) for row in letters],
    )


@app.command()
def show(letter: Letter, output: Out = Output.TABLE) -> None:
    """Show one: a job's request and last error, or what a message held."""
    from shared.db import dead_letters

    environ = config.environ()
    message = _find_message(environ, letter)
    if message is not None:
        record = _message(message)
    else:
        url, job_id = backends.database_url(environ), _job_id(letter)
        job = backends.transaction(url, dead_letters.get, job_id)
        replays = backends.transaction(url, dead_letters.replays_of, job_id)
        record = _job(job) | {
            "replays": [{"id": str(id_), "status": status.value} for id_, status in replays]
        }
    print_record(record, output)


@app.command()
def replay(job: Letter, output: Out = Output.TABLE) -> None:
    """Make a new job of a dead one's request. The dead one stays as it is."""
    from shared.db import dead_letters

    environ = config.environ()
    created = backends.transaction(
        backends.database_url(environ), dead_letters.replay, _job_id(job)
    )
    # No notification is sent: a worker finds the job with its next poll.
    print_record({"id": str(created.id), "status": "queued", "replay_of": job}, output)


@app.command()
def drop(letter: Letter, output: Out = Output.TABLE) -> None:
    """Delete one for good: a job with its events and pictures, or a message."""
    environ = config.environ()
    kind, objects = "message", 0
    if _find_message(environ, letter) is not None:
        with backends.dead_messages(environ["DF_REDIS_URL"]) as messages:
            messages.drop(letter)
    else:
        kind, objects = "job", _drop_job(environ, _job_id(letter))
    record = {"id": letter, "kind": kind, "objects": objects, "dropped": True}
    print_record(record, output, ("dropped", letter), ("kind", kind), ("objects", objects))


def _drop_job(environ: dict[str, str], job_id: UUID) -> int:
    """Rows, then objects; how many objects. The settings of the store are read before either."""
    import anyio

    from shared.db import dead_letters
    from shared.errors import InfraUnavailable
    from shared.object_store import open_store

    settings = backends.settings(environ)
    keys = backends.transaction(settings.database_url.get_secret_value(), dead_letters.drop, job_id)

    async def delete() -> None:
        with closing(open_store(settings)) as store:
            for key in keys:
                await store.delete(key)

    try:
        anyio.run(delete)
    except InfraUnavailable as error:
        raise Failure(
            f"job {job_id} is gone, but not all of its {len(keys)} pictures: {error}",
            hint="`dreamforge prune` deletes objects that no row names",
        ) from error
    return len(keys)


def _messages(environ: dict[str, str]) -> tuple[list[DeadMessage], str]:
    """The broker's list, and why there is none. A broker that is away hides no dead job."""
    from shared.errors import InfraUnavailable

    url = environ.get("DF_REDIS_URL")
    if not url:
        return [], "DF_REDIS_URL is not set"
    try:
        with backends.dead_messages(url) as messages:
            return messages.all(), ""
    except InfraUnavailable as error:
        return [], str(error)


def _find_message(environ: dict[str, str], letter: str) -> DeadMessage | None:
    messages, _ = _messages(environ)
    return next((message for message in messages if message.id == letter), None)


def _job_id(letter: str) -> UUID:
    try:
        return UUID(letter)
    except ValueError:
        raise Failure(f"{letter} is no id", hint="`dreamforge dlq list` shows them") from None


def _job(job: DeadJob) -> dict[str, Any]:
    return {
        "kind": "job",
        "id": str(job.id),
        "since": job.finished_at.isoformat(timespec="milliseconds"),
        "reason": job.why,
        "type": job.type,
        "user": job.user,
        "created_at": job.created_at.isoformat(timespec="milliseconds"),
        "replay_of": None if job.replay_of is None else str(job.replay_of),
        "request": job.request,
        "error": job.error,
    }


def _message(message: DeadMessage) -> dict[str, Any]:
    return {
        "kind": "message",
        "id": message.id,
        "since": message.received_at,
        "reason": message.reason,
        "queue": message.queue,
        "body": message.body,
    }


def _cell(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CELL_CHARACTERS else f"{line[: _CELL_CHARACTERS - 1]}…"
