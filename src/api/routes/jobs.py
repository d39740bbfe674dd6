"""Jobs: create, show, list, cancel and delete them, and list the pictures that they made."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from api.admission.body import SingleParseRoute
from api.admission.caller import caller_of
from api.admission.create import create
from api.admission.idempotency import MAX_KEY_CHARACTERS
from api.context import Context, Ctx
from api.middleware import tracing
from api.middleware.auth import User
from api.openapi import examples
from api.openapi.errors import CREATE, LIVES, NO_SUCH_JOB, TOO_MANY_STREAMS, documented
from api.openapi.responses import DELETED, answers, job_links
from api.schemas import pagination, responses, serializers
from api.schemas.ids import no_such_job, parse_id
from api.schemas.preferences import MAX_WAIT_S, parse_wait
from api.schemas.requests import CreateJob, ListQuery
from shared.db import artifacts, jobs
from shared.db.delete_job import delete_ended, keys_of_ended
from shared.db.engine import Connection
from shared.db.jobs import Job, Step
from shared.db.transitions import request_cancel
from shared.errors import InfraUnavailable, NotFound, RateLimited

log = logging.getLogger(__name__)
router = APIRouter(tags=["jobs"], route_class=SingleParseRoute)


async def _job_id(
    job_id: Annotated[str, Path(description="the job's id", json_schema_extra={"format": "uuid"})],
) -> UUID:
    """Raises `NotFound`: a text that is no id is not the id of a job."""
    if (parsed := parse_id(job_id)) is None:
        raise no_such_job()
    return parsed


JobId = Annotated[UUID, Depends(_job_id)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=f"Printable ASCII, at most {MAX_KEY_CHARACTERS} characters. The same key with "
        "the same body gets the first answer again, and no second job.",
        json_schema_extra={"maxLength": MAX_KEY_CHARACTERS},
    ),
]
# For the OpenAPI document; the route reads the header itself, which may be there several times.
Prefer = Annotated[
    str | None,
    Header(
        alias="Prefer",
        description=f"`wait=N` (RFC 7240): answer when the job has ended, after N s at most; N is "
        f"at most {MAX_WAIT_S}. The job goes on if you leave.",
        examples=["wait=30"],
    ),
]
Wait = Annotated[
    int | None,
    Query(
        ge=0,
        le=MAX_WAIT_S,
        description="answer when the job has ended, after so many seconds at most",
    ),
]

_CREATED_HEADERS = {
    "Location": {
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
        "description": "the job's address",
    },
    "Idempotent-Replayed": {
        "schema": {"const": "true"},
        "description": "this key has made the job before; no other one was made",
    },
    "Preference-Applied": {
        "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
        "description": "the answer waited for the job's end, so many seconds at most",
    },
}


@router.post(
    "/v1/jobs",
    operation_id="create_job",
    status_code=202,
    summary="Create a job",
    responses=answers(
        "Accepted, and stored: the job will come to an end. After a wait the whole job, which may "
        "have ended: its `status` says so.",
        examples.CREATES,
        status=202,
        headers=_CREATED_HEADERS,
        links=job_links("/job/id"),
    )
    | documented(*CREATE),
)
async def create_job(
    body: CreateJob,
    request: Request,
    response: Response,
    context: Ctx,
    user: User,
    idempotency_key: Key = None,
    prefer: Prefer = None,
) -> responses.Created | responses.WaitedFor:
    """Check the request against its model and preset, and queue it. Watch it with the stream."""
    caller = caller_of(request, user, idempotency_key, await request.json(), context.settings)
    created = await create(context, body, caller)
    tracing.set_job(request, created)
    response.headers["Location"] = f"{context.settings.root_path}/v1/jobs/{created.id}"
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    wait_s = parse_wait(request.headers.getlist("prefer"))
    if wait_s is not None:
        job = await _wait_if_possible(context, request, created.id, user, wait_s)
        if job is not None:
            response.headers["Preference-Applied"] = f"wait={wait_s}"
            return responses.WaitedFor(job=job)
    return serializers.created(created)


@router.get(
    "/v1/jobs",
    operation_id="list_jobs",
    summary="List jobs, newest first",
    responses=answers("One page.", examples.PAGE, links=job_links("/jobs/0/id"))
    | documented(pagination.invalid_cursor()),
)
async def list_jobs(
    query: Annotated[ListQuery, Query()], context: Ctx, user: User
) -> responses.JobPage:
    """One page; `next_cursor` leads to older jobs and stays right while new ones arrive."""
    before = None if query.cursor is None else pagination.decode(query.cursor)

    async def work(connection: Connection) -> tuple[list[Job], dict[UUID, list[Step]]]:
        page = await jobs.page(
            connection,
            user=user,
            status=query.status,
            tags=query.tags,
            before=before,
            limit=query.limit + 1,
        )
        return page, await jobs.steps_of(connection, [job.id for job in page])

    page, steps = await context.database.transaction(work)
    queues = await context.queue.of_jobs(steps)
    shown = page[: query.limit]
    more = len(page) > query.limit
    return responses.JobPage(
        jobs=[serializers.job(job, steps[job.id], queues.get(job.id)) for job in shown],
        next_cursor=pagination.encode(shown[-1].created_at, shown[-1].id) if more else None,
    )


@router.get(
    "/v1/jobs/{job_id}",
    operation_id="get_job",
    summary="Status, steps, summary, error",
    responses=answers("The job.", examples.JOBS) | documented(NO_SUCH_JOB, TOO_MANY_STREAMS),
)
async def get_job(
    job_id: JobId, request: Request, context: Ctx, user: User, wait: Wait = None
) -> responses.JobOut:
    """`error` says why a job failed, and has a section in docs/errors.md for each code."""
    if wait:
        await request.body()  # whatever it holds: then the next message is the client's leaving
        return await _wait(context, request, job_id, user, wait)
    return await _show(context, job_id, user)


@router.post(
    "/v1/jobs/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job, queued or running",
    responses=answers("The job as it is now.", examples.CANCELS) | documented(NO_SUCH_JOB),
)
async def cancel_job(job_id: JobId, context: Ctx, user: User) -> responses.JobOut:
    """Idempotent. What waits is cancelled at once. What runs is stopped by its worker, which says
    `cancelled` once the device's memory is proven back; until then the job shows as it is. A job
    that has ended stays as it is, and is no error. Finished pictures stay."""
    ended = await context.database.transaction(request_cancel, job_id, user=user)
    if ended is None:
        raise no_such_job()
    if ended:
        context.metrics.jobs_finished.labels("cancelled", "cancelled").inc()
    return await _show(context, job_id, user)


@router.delete(
    "/v1/jobs/{job_id}",
    operation_id="delete_job",
    status_code=204,
    summary="Delete an ended job, with its pictures and its record",
    responses=DELETED | documented(NO_SUCH_JOB, LIVES),
)
async def delete_job(job_id: JobId, context: Ctx, user: User) -> None:
    """Pictures first, then all rows; what it used stays counted. Idempotent: a job that is not
    there, or is another key's, is a `204` too, so that a lost answer can be asked for again."""
    keys = await context.database.transaction(keys_of_ended, job_id, user=user)
    for key in keys:
        await context.store.delete(key)
    await context.database.transaction(delete_ended, job_id, user=user)


@router.get(
    "/v1/jobs/{job_id}/artifacts",
    operation_id="list_artifacts",
    summary="Finished pictures, with URLs to fetch them",
    responses=answers("What is finished by now.", examples.ARTIFACTS) | documented(NO_SUCH_JOB),
)
async def list_artifacts(job_id: JobId, context: Ctx, user: User) -> responses.Artifacts:
    """Also those of a job that failed later. A URL works until `expires_at`; ask again for more."""

    async def work(connection: Connection) -> list[artifacts.Artifact]:
        await find_job(connection, job_id, user)
        return await artifacts.list_artifacts(connection, job_id)

    rows = await context.database.transaction(work)
    ttl_s = context.settings.presign_ttl_s
    expires_at = datetime.now(UTC) + timedelta(seconds=ttl_s)
    return responses.Artifacts(
        artifacts=[
            serializers.artifact(row, context.store.presign(row.s3_key, ttl_s), expires_at)
            for row in rows
        ]
    )


async def find_job(connection: Connection, job_id: UUID, user: str) -> Job:
    """A job of this user. Raises `NotFound`, for another user's job too."""
    job = await jobs.get(connection, job_id, user=user)
    if job is None:
        raise no_such_job()
    return job


async def _wait(
    context: Context, request: Request, job_id: UUID, user: str, wait_s: int
) -> responses.JobOut:
    """The job once it has ended, or as early as the wait ends. Raises `RateLimited`, `NotFound`."""

    async def read_job() -> Job:
        return await context.database.statement(find_job, job_id, user)

    with context.streams.place(user):
        await context.waits.until_end(request, read_job, timeout_s=wait_s)
    return await context.waits.read(lambda: _show(context, job_id, user))


async def _wait_if_possible(
    context: Context, request: Request, job_id: UUID, user: str, wait_s: int
) -> responses.JobOut | None:
    """The same; None where we cannot wait now. The job was stored, so that is no error, even if
    it has ended and was deleted meanwhile."""
    try:
        return await _wait(context, request, job_id, user, wait_s)
    except (RateLimited, InfraUnavailable, NotFound) as why:
        log.warning("a create is answered without its wait: %s", why)
        return None


async def _show(context: Context, job_id: UUID, user: str) -> responses.JobOut:
    async def work(
        connection: Connection,
    ) -> tuple[Job, dict[UUID, list[Step]], jobs.Asked]:
        job = await find_job(connection, job_id, user)
        steps = await jobs.steps_of(connection, [job_id])
        asked = await jobs.asked_of(connection, job_id)
        if asked is None:  # deleted a moment ago
            raise no_such_job()
        return job, steps, asked

    job, steps, asked = await context.database.transaction(work)
    queues = await context.queue.of_jobs(steps)
    return serializers.job(job, steps[job_id], queues.get(job_id), asked)
