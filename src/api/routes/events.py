"""Follow a job: its progress, the stream of its events, its log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from api.context import Context, Ctx
from api.middleware.auth import User
from api.openapi import examples
from api.openapi.errors import NO_SUCH_JOB, TOO_MANY_STREAMS, documented
from api.openapi.responses import NDJSON, SSE, answers
from api.routes.jobs import JobId
from api.schemas import responses
from api.schemas.ids import job_id_of, no_such_job
from api.schemas.requests import LogsQuery
from api.streaming import logs, progress
from api.streaming.sse import EventStreamResponse, ProgressStream
from shared.db import artifacts, events, jobs
from shared.db.engine import Connection
from shared.db.events import Event, best_item_progress
from shared.db.jobs import Job
from shared.errors import InvalidInput
from shared.events import Code

router = APIRouter(tags=["following"])


def _beyond(seen: int, last: int) -> InvalidInput:
    return InvalidInput(
        f"Last-Event-ID: {seen} is beyond this job's last event, {last}",
        field="Last-Event-ID",
        maximum=last,
    )


@router.get(
    "/v1/jobs/{job_id}/progress",
    operation_id="get_progress",
    summary="How far a job is",
    responses=answers("How far it is.", examples.PROGRESS) | documented(NO_SUCH_JOB),
)
async def get_progress(job_id: JobId, context: Ctx, user: User) -> responses.ProgressOut:
    """One number for the job and one per item, 0 to 1; neither ever goes back."""
    wanted = job_id_of(job_id)

    async def work(connection: Connection) -> responses.ProgressOut:
        job = await _job(connection, wanted, user)
        return progress.view(
            job,
            (await jobs.steps_of(connection, [wanted]))[wanted],
            finished=await artifacts.finished_items(connection, wanted),
            reached=await best_item_progress(connection, wanted),
            started=await events.last_of(connection, wanted, Code.STEP_START),
            last=await events.last_of(connection, wanted, Code.PROGRESS),
        )

    return await context.database.transaction(work)


@router.get(
    "/v1/jobs/{job_id}/progress/stream",
    operation_id="stream_progress",
    summary="Events of a job as they happen (SSE)",
    response_class=Response,
    responses=SSE | documented(NO_SUCH_JOB, _beyond(99, 13), TOO_MANY_STREAMS),
)
async def stream_progress(
    job_id: JobId,
    context: Ctx,
    user: User,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="`id` of the last event seen")
    ] = None,
    after: Annotated[
        str | None,
        Query(alias="last_event_id", description="the same, for clients that cannot set a header"),
    ] = None,
) -> Response:
    """From the event after `Last-Event-ID`, or the first one, to the job's end; then it closes."""
    wanted = job_id_of(job_id)
    seen = _seq(last_event_id if last_event_id is not None else after)

    async def work(connection: Connection) -> Job:
        return await _job(connection, wanted, user)

    job = await context.database.transaction(work)
    if job.ended and seen >= job.event_seq:
        return Response(status_code=204)  # an EventSource stops at this, and at nothing else
    if seen > job.event_seq:
        raise _beyond(seen, job.event_seq)
    stream = ProgressStream(
        job, after=seen, hub=context.hub, read_page=_reader(context), metrics=context.metrics
    )
    return EventStreamResponse(stream.messages(), context.streams)


@router.get(
    "/v1/jobs/{job_id}/logs",
    operation_id="get_logs",
    summary="Everything that happened to a job (NDJSON)",
    response_class=Response,
    responses=NDJSON | documented(NO_SUCH_JOB, logs.no_moment()),
)
async def get_logs(
    job_id: JobId, query: Annotated[LogsQuery, Query()], context: Ctx, user: User
) -> Response:
    """One JSON object a line, oldest first, up to this moment."""
    wanted = job_id_of(job_id)

    async def work(connection: Connection) -> Job:
        return await _job(connection, wanted, user)

    job = await context.database.transaction(work)
    chosen = logs.select(wanted, job.event_seq, query)
    page = await logs.first_page(context.database, chosen)
    return StreamingResponse(
        logs.lines(context.database, chosen, page), media_type="application/x-ndjson"
    )


async def _job(connection: Connection, job_id: UUID, user: str) -> Job:
    job = await jobs.get(connection, job_id, user=user)
    if job is None:
        raise no_such_job()
    return job


def _reader(context: Context) -> Callable[[UUID, int, int], Awaitable[list[Event]]]:
    async def read(job_id: UUID, after: int, limit: int) -> list[Event]:
        return await context.database.transaction(
            lambda connection: events.page(connection, job_id, after=after, limit=limit)
        )

    return read


def _seq(text: str | None) -> int:
    """0 for none: from the beginning. Raises `InvalidInput`."""
    if not text:  # an EventSource that has seen nothing may send an empty one
        return 0
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    raise InvalidInput(
        "Last-Event-ID: must be the id of an event of this job, a whole number",
        field="Last-Event-ID",
    )
