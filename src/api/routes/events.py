"""Follow a job: its progress, the stream of its events, its log."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from api.context import Ctx
from api.middleware.auth import User
from api.openapi import examples
from api.openapi.errors import NO_SUCH_JOB, TOO_MANY_STREAMS, documented
from api.openapi.responses import NDJSON, SSE, answers
from api.routes.jobs import JobId, find_job
from api.schemas import responses
from api.schemas.requests import LogsQuery
from api.streaming import logs, progress
from api.streaming.previews import Previews
from api.streaming.sse import EventStreamResponse, ProgressStream
from api.waiting.feed import QueueFeed
from shared.db import artifacts, events, jobs
from shared.db.engine import Connection
from shared.db.events import Event, best_item_progress
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

    async def work(connection: Connection) -> responses.ProgressOut:
        job = await find_job(connection, job_id, user)
        return progress.progress_of(
            job,
            (await jobs.steps_of(connection, [job_id]))[job_id],
            finished=await artifacts.finished_items(connection, job_id),
            reached=await best_item_progress(connection, job_id),
            started=await events.last_event(connection, job_id, Code.STEP_START),
            last=await events.last_event(connection, job_id, Code.PROGRESS),
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
    previews: Annotated[
        Literal["true", "false"],
        Query(description="`false`: no `preview` messages, and none are made for this stream"),
    ] = "true",
) -> Response:
    """From the event after `Last-Event-ID`, or the first one, to the job's end; then it closes."""
    seen = _parse_seq(last_event_id if last_event_id is not None else after)
    job = await context.database.transaction(find_job, job_id, user)
    if job.ended and seen >= job.event_seq:
        return Response(status_code=204)  # the only answer that makes an EventSource stop
    if seen > job.event_seq:
        raise _beyond(seen, job.event_seq)

    async def read_page(job_id: UUID, after: int, limit: int) -> list[Event]:
        return await context.database.transaction(events.page, job_id, after=after, limit=limit)

    stream = ProgressStream(
        job,
        after=seen,
        hub=context.hub,
        read_page=read_page,
        metrics=context.metrics,
        queue=QueueFeed(context.queue, job.id),
        previews=context.previews if previews == "true" else Previews(),
    )
    return EventStreamResponse(stream.messages(), context.streams, user)


@router.get(
    "/v1/jobs/{job_id}/logs",
    operation_id="get_logs",
    summary="Everything that happened to a job (NDJSON)",
    response_class=Response,
    responses=NDJSON | documented(NO_SUCH_JOB, logs.invalid_moment()),
)
async def get_logs(
    job_id: JobId, query: Annotated[LogsQuery, Query()], context: Ctx, user: User
) -> Response:
    """One JSON object a line, oldest first, up to this moment."""
    job = await context.database.transaction(find_job, job_id, user)
    log = logs.JobLog(context.database, job, query)
    page = await log.first_page()
    return StreamingResponse(log.lines(page), media_type="application/x-ndjson")


def _parse_seq(text: str | None) -> int:
    """The `seq` that a client saw last, 0 for none. Raises `InvalidInput`."""
    if not text:  # an EventSource that has seen nothing may send an empty one
        return 0
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    raise InvalidInput(
        "Last-Event-ID: must be the id of an event of this job, a whole number",
        field="Last-Event-ID",
    )
