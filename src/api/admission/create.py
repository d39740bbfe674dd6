"""Create a job: look at the key, choose the model, plan, insert, ring. One transaction."""

from __future__ import annotations

import logging
from functools import partial

import anyio

from api import limits
from api.admission.models import choose_model, choose_upscaler
from api.admission.plan import Caller, plan_job, refuse_impossible
from api.context import Context
from api.schemas.requests import CreateJob
from shared.db import quotas, workers
from shared.db.connection import Connection
from shared.db.create_job import Created, NewJob, create_job, find_by_key, find_created
from shared.errors import InfraUnavailable
from shared.events import Code

log = logging.getLogger(__name__)

# For one look at whether a job is there whose commit was not answered, on top of what it took.
READ_BACK_S = 3.0


async def create(context: Context, body: CreateJob, caller: Caller) -> Created:
    """The new job, or the one that the caller's idempotency key made before.

    The key is looked at first: a replay gets its answer even if the model has been disabled since.
    A refusal leaves no trace, so it does not use the key up.
    """

    planned: NewJob | None = None

    async def work(connection: Connection) -> Created:
        nonlocal planned
        if (earlier := await _earlier(connection, caller)) is not None:
            return earlier
        settings = context.settings
        model = await choose_model(connection, body.model_id, settings.default_model)
        live = await workers.live_workers(connection)
        upscaler = await choose_upscaler(connection, body, live)
        planned = job = plan_job(body, model, caller, settings, upscaler=upscaler)
        refuse_impossible(job, live)
        if limits.has_quota(settings):
            # Behind our own twin: by now it may have made the job, and a replay is never refused.
            await quotas.lock_user(connection, caller.user)
            if (earlier := await _earlier(connection, caller)) is not None:
                return earlier
            await limits.enforce_quota(connection, caller.user, settings)
        return await create_job(connection, job)

    try:
        created = await context.database.transaction(work)
    except InfraUnavailable:
        found = await _read_back(context, planned)
        if found is None:
            raise
        created = found
    if created.first_step_id is not None and created.first_queue is not None:
        context.metrics.jobs_accepted.labels(created.type).inc()
        _tell(created, caller)
        context.notifier.notify(created.first_step_id, created.first_queue)
    return created


def _tell(created: Created, caller: Caller) -> None:
    """From here on the job is followed by its id; this line has both."""
    log.info(
        "%s job accepted",
        created.type,
        extra={
            "code": Code.JOB_CREATED.value,
            "job_id": str(created.id),
            "step_id": str(created.first_step_id),
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
            return await context.database.transaction(partial(find_created, new=planned))
    return None


async def _earlier(connection: Connection, caller: Caller) -> Created | None:
    """What the caller's key made before, if anything."""
    if caller.key is None:
        return None
    return await find_by_key(connection, caller.user, caller.key)
