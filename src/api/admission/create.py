"""Create a job, then notify.

Theory of operation
-------------------
As a rule a create is one statement. It is planned with what the process keeps (`api.planning`), and
the statement inserts the job only if its key is free, the registry is the one that it was planned
with, and the user is far below the limit of jobs.

Everything else is decided in one transaction (look up the key, keep the pictures, read, plan,
admit, count under the user's lock, insert): a request that is refused, one with a key that was
used, a user near the limit, a registry that has changed, a picture that was deleted. The key is
looked up first: a replay gets its answer even if the model has been disabled since. A refusal
leaves no trace, so it does not use the key up. What the transaction read is kept for the creates
that follow.
"""

import logging
import math
from uuid import UUID

import anyio

from api import limits
from api.admission.capacity import check_capacity
from api.admission.pictures import NO_PICTURES, find_pictures, keep_pictures
from api.admission.plan import Caller, plan_job
from api.admission.resolve import resolve
from api.context import Context
from api.planning import Planning
from api.schemas.requests import CreateJob
from shared.db import create_job as creating
from shared.db import jobs, models, workers
from shared.db.create_job import Created, find_by_key, find_created
from shared.db.engine import Connection
from shared.db.insert_job import NewJob
from shared.errors import DreamForgeError, InfraUnavailable, RateLimited
from shared.events import Code

log = logging.getLogger(__name__)

# To read once whether a job is there whose commit was not answered, on top of what it took.
READ_BACK_S = 3.0
# No answer names a longer wait: jobs are cancelled, and workers are added.
MOST_PAUSE_S = 600


async def create(context: Context, body: CreateJob, caller: Caller) -> Created:
    """The new job, or the one that the caller's idempotency key made before."""
    creation = _Creation(context, body, caller)
    try:
        await creation.find_pictures()
        created = await creation.try_statement() or await creation.transaction()
    except RateLimited as refused:
        raise await _with_known_pause(context, refused, caller.user) from None
    except InfraUnavailable:
        committed = await _read_back(context, creation.planned)
        if committed is None:
            raise
        created = committed
    if (step := created.first_step) is not None:
        context.metrics.jobs_accepted.labels(created.type).inc()
        _log_accepted(created, step.id, caller)
        context.notifier.notify(step.id, step.queue)
    return created


async def find_earlier(context: Context, caller: Caller) -> Created | None:
    """The job that the caller's idempotency key made. Raises `Conflict`."""
    return await context.database.statement(find_by_key, caller.user, caller.key)


class _Creation:
    """One create on its way. `planned` is the job that was sent to the database last."""

    def __init__(self, context: Context, body: CreateJob, caller: Caller) -> None:
        self._context = context
        self._body = body
        self._caller = caller
        self.planned: NewJob | None = None
        self._pictures = NO_PICTURES

    async def find_pictures(self) -> None:
        """Find the pictures that it starts from; what is missing is refused by the plan."""
        self._pictures = await find_pictures(self._context, self._body, self._caller.user)

    async def try_statement(self) -> Created | None:
        """Create it with one statement; None: only a transaction can tell."""
        unfinished, user = self._context.unfinished, self._caller.user
        planning = None if unfinished.near(user) else await self._context.planning.get()
        if planning is None:
            return None
        try:
            job = self._plan(planning)
        except DreamForgeError:  # by what we keep; the transaction refuses by what there is
            return None
        inserted = await self._context.database.statement(
            creating.try_create_job,
            job,
            registry_version=planning.registry.version,
            unfinished_below=unfinished.count_below(user),
        )
        if inserted is None:
            return None
        unfinished.record(user, inserted.unfinished)
        return creating.created(job, inserted.created_at)

    async def transaction(self) -> Created:
        """Create it, refuse it, or answer with what its key made before."""
        return await self._context.database.transaction(self._decide)

    async def _decide(self, connection: Connection) -> Created:
        user, key = self._caller.user, self._caller.key
        if (earlier := await find_by_key(connection, user, key)) is not None:
            return earlier
        self._pictures = await keep_pictures(connection, self._pictures)
        job = self._plan(await self._read(connection))
        used = None
        if limits.has_quota(self._context.settings, user):
            await jobs.lock_user(connection, user)
            # A request with the same key may have held the lock; a replay is never refused.
            if (earlier := await find_by_key(connection, user, key)) is not None:
                return earlier
            used = await limits.enforce_quota(connection, user, self._context.settings)
        created = await creating.create_job(connection, job)
        self._context.unfinished.record(user, used)
        return created

    async def _read(self, connection: Connection) -> Planning:
        planning = Planning(
            live=await workers.live_workers(connection),
            registry=await models.read_registry(connection),
        )
        self._context.planning.put(planning)
        return planning

    def _plan(self, planning: Planning) -> NewJob:
        settings = self._context.settings
        resolved = resolve(self._body, planning.registry.models, planning.live, settings)
        self.planned = plan_job(self._body, resolved, self._pictures, self._caller, settings)
        check_capacity(self.planned, planning.live)
        return self.planned


async def _with_known_pause(context: Context, refused: RateLimited, user: str) -> RateLimited:
    """The refusal of a user with too many unfinished jobs, until one of them is likely to end."""
    if refused.details["limit"] != limits.UNFINISHED_JOBS:
        return refused
    end_s = await context.queue.next_end_s(user)
    if end_s is None:
        return refused
    pause_s = min(max(1, math.ceil(end_s)), MOST_PAUSE_S)
    return limits.limit_reached(limits.UNFINISHED_JOBS, refused.details["maximum"], pause_s)


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
