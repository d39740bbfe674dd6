"""What serves, what runs there, and what waits for it."""

from collections.abc import Sequence
from uuid import UUID

from fastapi import APIRouter

from api.context import Ctx
from api.middleware.auth import User, is_admin
from api.openapi import examples
from api.openapi.errors import documented
from api.openapi.responses import answers
from api.schemas import responses, serializers
from shared.db import jobs, models
from shared.db.backlog import waiting_by_user
from shared.db.engine import Connection
from shared.db.workers import Worker, live_workers

router = APIRouter(tags=["workers"])


@router.get(
    "/v1/workers",
    operation_id="list_workers",
    summary="Live workers, their slots, and what waits",
    responses=answers("Now.", examples.WORKERS) | documented(),
)
async def list_workers(context: Ctx, user: User) -> responses.Workers:
    """A worker's row is as old as `heartbeat_at` says: a second after a slot has changed, 10 s
    otherwise. Hosts, processes, and the jobs and queues of other users are for a key of
    `DF_ADMIN_KEYS`; without keys for everyone."""
    sees_all = is_admin(user, context.settings)

    async def work(connection: Connection) -> responses.Workers:
        live = await live_workers(connection)
        rows = await models.list_models(connection)
        names = {row.id: f"{row.name}@{row.version}" for row in rows}
        own = await jobs.of_user(connection, user, _job_ids(live))
        waiting = await waiting_by_user(connection, user=None if sees_all else user)
        return responses.Workers(
            workers=[serializers.worker(worker, names, own, sees_all=sees_all) for worker in live],
            queue=[serializers.waiting(each) for each in waiting],
        )

    return await context.database.transaction(work)


def _job_ids(live: Sequence[Worker]) -> list[UUID]:
    return [slot.job_id for worker in live for slot in worker.slots if slot.job_id is not None]
