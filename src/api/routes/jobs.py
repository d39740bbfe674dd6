"""Jobs: create, look, list, cancel, and what they made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response

from api.admission.body import SingleParseRoute, Submitted
from api.admission.create import create
from api.admission.idempotency import MAX_KEY_CHARACTERS, key_hash
from api.admission.plan import Caller
from api.context import Context, Ctx
from api.middleware import tracing
from api.middleware.auth import User
from api.openapi import examples
from api.openapi.errors import CREATE, NO_SUCH_JOB, documented
from api.openapi.responses import answers, job_links
from api.schemas import pagination, responses, serializers
from api.schemas.ids import job_id_of, no_such_job
from api.schemas.requests import ListQuery
from shared.db import artifacts, jobs
from shared.db.cancel import request_cancel
from shared.db.create_job import IdempotencyKey
from shared.db.engine import Connection
from shared.db.jobs import Job, Step

router = APIRouter(tags=["jobs"], route_class=SingleParseRoute)

JobId = Annotated[str, Path(description="the job's id", json_schema_extra={"format": "uuid"})]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=f"Printable ASCII, at most {MAX_KEY_CHARACTERS} characters. The same key with "
        "the same body gets the first answer again, and no second job.",
        json_schema_extra={"maxLength": MAX_KEY_CHARACTERS},
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
        "description": "this is the first answer to this key again; no job was made",
    },
}


@router.post(
    "/v1/jobs",
    operation_id="create_job",
    status_code=202,
    summary="Create a job",
    responses=answers(
        "Accepted, and stored: the job will come to an end.",
        examples.CREATED,
        status=202,
        headers=_CREATED_HEADERS,
        links=job_links("/job/id"),
    )
    | documented(*CREATE),
)
async def create_job(
    submission: Submitted,
    request: Request,
    response: Response,
    context: Ctx,
    user: User,
    idempotency_key: Key = None,
) -> responses.Created:
    """Check the request against its model and preset, and queue it. Watch it with the stream."""
    caller = Caller(
        user=user,
        correlation_id=request.state.correlation_id,
        client_request_id=request.state.client_request_id,
        traceparent=tracing.traceparent_of(request),
        key=None
        if idempotency_key is None
        else IdempotencyKey(
            key_hash=key_hash(idempotency_key),
            fingerprint=submission.fingerprint,
            ttl_s=context.settings.idempotency_ttl_s,
        ),
    )
    created = await create(context, submission.job, caller)
    tracing.about_job(request, created)
    response.headers["Location"] = f"/v1/jobs/{created.id}"
    if created.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return serializers.created(created)


@router.get(
    "/v1/jobs",
    operation_id="list_jobs",
    summary="List jobs, newest first",
    responses=answers("One page.", examples.PAGE, links=job_links("/jobs/0/id"))
    | documented(pagination.not_ours()),
)
async def list_jobs(
    query: Annotated[ListQuery, Query()], context: Ctx, user: User
) -> responses.JobPage:
    """One page; `next_cursor` leads to older jobs and stays right while new ones arrive."""
    before = None if query.cursor is None else pagination.decode(query.cursor)

    async def work(connection: Connection) -> tuple[list[Job], dict[UUID, list[Step]]]:
        found = await jobs.page(
            connection, user=user, status=query.status, before=before, limit=query.limit + 1
        )
        return found, await jobs.steps_of(connection, [job.id for job in found])

    found, steps = await context.database.transaction(work)
    shown = found[: query.limit]
    more = len(found) > query.limit
    return responses.JobPage(
        jobs=[serializers.job(job, steps[job.id]) for job in shown],
        next_cursor=pagination.encode(shown[-1].created_at, shown[-1].id) if more else None,
    )


@router.get(
    "/v1/jobs/{job_id}",
    operation_id="get_job",
    summary="Status, steps, summary, error",
    responses=answers("The job.", several=examples.JOBS) | documented(NO_SUCH_JOB),
)
async def get_job(job_id: JobId, context: Ctx, user: User) -> responses.JobOut:
    """`error` says why a job failed, and has a section in docs/errors.md for each code."""
    return serializers.job(*await load(context, job_id, user))


@router.post(
    "/v1/jobs/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job, queued or running",
    responses=answers("The job as it is now.", several=examples.CANCELS) | documented(NO_SUCH_JOB),
)
async def cancel_job(job_id: JobId, context: Ctx, user: User) -> responses.JobOut:
    """Idempotent. What waits is cancelled at once. What runs is stopped by its worker, which says
    `cancelled` once the device's memory is proven back; until then the job shows as it is. A job
    that has ended stays as it is, and is no error. Finished pictures stay."""
    wanted = job_id_of(job_id)

    async def work(connection: Connection) -> bool | None:
        return await request_cancel(connection, wanted, user=user)

    ended = await context.database.transaction(work)
    if ended is None:
        raise no_such_job()
    if ended:
        context.metrics.jobs_finished.labels("cancelled", "cancelled").inc()
    return serializers.job(*await load(context, job_id, user))


@router.get(
    "/v1/jobs/{job_id}/artifacts",
    operation_id="list_artifacts",
    summary="Finished pictures, with URLs to fetch them",
    responses=answers("What is finished by now.", examples.ARTIFACTS) | documented(NO_SUCH_JOB),
)
async def list_artifacts(job_id: JobId, context: Ctx, user: User) -> responses.Artifacts:
    """Also those of a job that failed later. A URL works until `expires_at`; ask again for more."""
    wanted = job_id_of(job_id)

    async def work(connection: Connection) -> list[artifacts.Artifact]:
        if await jobs.get(connection, wanted, user=user) is None:
            raise no_such_job()
        return await artifacts.list_artifacts(connection, wanted)

    found = await context.database.transaction(work)
    ttl_s = context.settings.presign_ttl_s
    expires_at = datetime.now(UTC) + timedelta(seconds=ttl_s)
    return responses.Artifacts(
        artifacts=[
            serializers.artifact(each, context.store.presign(each.s3_key, ttl_s), expires_at)
            for each in found
        ]
    )


async def load(context: Context, job_id: str, user: str) -> tuple[Job, list[Step]]:
    """A job of this user with its steps. Raises `NotFound`, for another user's job too."""
    wanted = job_id_of(job_id)

    async def work(connection: Connection) -> tuple[Job, list[Step]]:
        job = await jobs.get(connection, wanted, user=user)
        if job is None:
            raise no_such_job()
        return job, (await jobs.steps_of(connection, [job.id]))[job.id]

    return await context.database.transaction(work)
