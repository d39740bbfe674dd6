"""Whether the process is alive, whether it is ready, and its metrics."""

import logging
from collections.abc import Awaitable, Callable

import anyio
from fastapi import APIRouter, Response

from api.context import Ctx
from api.metrics import CONTENT_TYPE
from api.middleware.auth import SCHEME
from api.openapi import examples
from api.openapi.errors import documented
from api.openapi.responses import METRICS, answers
from api.schemas import responses
from shared.db.deliveries import backlog
from shared.db.engine import Connection
from shared.db.jobs import queue_depth
from shared.errors import InfraUnavailable

log = logging.getLogger(__name__)
router = APIRouter(tags=["probes"])

# A probe that hangs passes for a dead process: most callers give up after some seconds.
CHECK_TIMEOUT_S = 2.0


@router.get(
    "/healthz",
    operation_id="get_health",
    summary="The process is alive",
    responses=answers("It lives.", examples.HEALTH) | documented(needs_key=False),
)
async def get_health() -> responses.Health:
    """Asks nobody: a database that is away is no reason to restart this process."""
    return responses.Health()


@router.get(
    "/readyz",
    operation_id="get_readiness",
    summary="Jobs can be accepted",
    responses=answers("Ready.", examples.READY)
    | documented(
        InfraUnavailable("down: database, store", down=["database", "store"]), needs_key=False
    ),
    response_model_exclude_none=True,
)
async def get_readiness(context: Ctx) -> responses.Ready:
    """503 names what is down, or cannot write. Without the broker jobs are accepted and found by
    polling, a second later: that is `degraded`, not down."""
    down: list[str] = []
    degraded: list[str] = []
    async with anyio.create_task_group() as checks:
        checks.start_soon(_check, "database", context.database.probe_write, down)
        checks.start_soon(_check, "store", context.store.ping, down)
        checks.start_soon(_check, "broker", context.notifier.ping, degraded)
    if down:
        raise InfraUnavailable(f"down: {', '.join(sorted(down))}", down=sorted(down))
    return responses.Ready(degraded=degraded or None)


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses=METRICS | documented(),
    # Asked for where the API listens on the network; see api.middleware.auth.
    openapi_extra={"security": [{SCHEME: []}, {}]},
)
async def get_metrics(context: Ctx) -> Response:
    """What this process counts. Open on a loopback address; elsewhere it needs a key."""
    metrics = context.metrics

    async def read(connection: Connection) -> None:
        metrics.queue_depth.set(await queue_depth(connection))
        metrics.webhook_backlog.set(await backlog(connection))

    try:
        with anyio.fail_after(CHECK_TIMEOUT_S):
            await context.database.transaction(read)
    except (InfraUnavailable, TimeoutError):
        metrics.queue_depth.set(float("nan"))  # unknown is not the last known
        metrics.webhook_backlog.set(float("nan"))
    return Response(context.metrics.render(), media_type=CONTENT_TYPE)


async def _check(name: str, ping: Callable[[], Awaitable[object]], failed: list[str]) -> None:
    try:
        with anyio.fail_after(CHECK_TIMEOUT_S):
            await ping()
    except (InfraUnavailable, TimeoutError) as error:
        log.warning("not ready: %s: %s", name, error or "no answer in time")
        failed.append(name)
