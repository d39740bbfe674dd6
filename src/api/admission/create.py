"""Create a job in one transaction (look up its key, resolve, plan, admit, insert), then notify."""

import logging
from uuid import UUID

import anyio

from api import limits
from api.admission.capacity import check_capacity
from api.admission.plan import Caller, plan_job
from api.admission.resolve import resolve
from api.context import Context
from api.schemas.requests import CreateJob
from shared.db import jobs, models, workers
from shared.db.create_job import Created, NewJob, create_job, find_by_key, find_created
from shared.db.engine import Connection
from shared.errors import InfraUnavailable
from shared.events import Code

log = logging.getLogger(__name__)

# To read once whether a job is there whose commit was not answered, on top of what it took.
READ_BACK_S = 3.0


async def create(context: Context, body: CreateJob, caller: Caller) -> Created:
    """The new job, or the one that the caller's idempotency key made before.

    The key is looked up first: a replay gets its answer even if the model has been disabled since.
    A refusal leaves no trace, so it does not use the key up.
    """
    settings = context.settings
    planned: NewJob | None = None

    async def work(connection: Connection) -> Created:
        nonlocal planned
        if (earlier := await find_by_key(connection, caller.user, caller.key)) is not None:
            return earlier
        live = await workers.live_workers(connection)
        resolved = resolve(body, await models.list_models(connection), live, settings)
        planned = job = plan_job(body, resolved, caller, settings)
        check_capacity(job, live)
        if limits.has_quota(settings):
            await jobs.lock_user(connection, caller.user)
            # A request with the same key may have held the lock; a replay is never refused.
            if (earlier := await find_by_key(connection, caller.user, caller.key)) is not None:
                return earlier
            await limits.enforce_quota(connection, caller.user, settings)
        return await create_job(connection, job)

    try:
        created = await context.database.transaction(work)
    except InfraUnavailable:
        committed = await _read_back(context, planned)
        if committed is None:
            raise
        created = committed
    if (step := created.first_step) is not None:
        context.metrics.jobs_accepted.labels(created.type).inc()
        _log_accepted(created, step.id, caller)
        context.notifier.notify(step.id, step.queue)
    return created


def _log_accepted(created: Created, step_id: UUID, caller: Caller) -> None:
    """Tie the request's ids to the job's id, by which later lines are found."""
    log.info(
        "%s job accepted",
        created.type,
        extra={
            "code": Code.JOB_CREATED.value,
            "job_id": str(created.id),
            "step_id": str(step_id),
            "correlation_id": caller.correlation_id,
            "client_request_id": caller.client_request_id,
        },
    )


async def _read_back(context: Context, planned: NewJob | None) -> Created | None:
    """The job whose commit was not answered, if it is there after all.

    A client without a key could only send its request again, and would have two.
    """
    if planned is not None:
        with anyio.move_on_after(READ_BACK_S):
            return await context.database.transaction(find_created, planned)
    return None
