"""`/healthz`, `/readyz` and `/metrics` of the worker, on its own event loop.

The probes need no key: a process manager has none. `/metrics` needs one of `DF_API_KEYS` when other
machines can reach the address (PRODUCT §2). Without keys no worker listens on such an address
(`worker.check_port`).
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.auth import ApiKey, authenticate
from shared.errors import InfraUnavailable, Unauthorized
from shared.strict_http import IDLE_TIMEOUT_S, StrictProtocol
from supervisor.metrics import Metrics
from supervisor.slots.table import SlotTable
from supervisor.templates.templates import TemplateStatus

_CHECK_S = 3.0

Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What the worker's probes report. `checks` raise `InfraUnavailable`."""

    metrics: Metrics
    slots: SlotTable
    checks: dict[str, Check]
    draining: Callable[[], bool]
    templates: Callable[[], list[TemplateStatus]] = list
    sandbox: Callable[[str], Mapping[str, object]] = lambda _kind: {}  # by kind of device
    control_groups: Mapping[str, object] = field(default_factory=dict)
    keys: tuple[ApiKey, ...] = ()  # any of them may read `/metrics`; empty where no key is needed

    async def problems(self) -> dict[str, str]:
        """Why this worker is not ready, by part; empty when it is."""
        problems = {}
        for name, check in self.checks.items():
            try:
                with anyio.fail_after(_CHECK_S):
                    await check()
            except InfraUnavailable as error:
                problems[name] = error.message
            except TimeoutError:
                problems[name] = f"no answer within {_CHECK_S:g} s"
        if self.draining():
            problems["worker"] = "draining"
        if not any(slot.state in ("free", "held") for slot in self.slots):
            problems["slots"] = "no slot can take work"
        return problems


def create_app(health: Health) -> Starlette:
    """Three routes. Plain Starlette: FastAPI would add most of a second to the worker's start."""

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        slots = {slot.id: str(slot.state) for slot in health.slots}
        pids = {
            slot.id: slot.device.pid_check_result
            for slot in health.slots
            if slot.device.pid_check_result
        }
        down = await health.problems()
        body: dict[str, Any] = (
            {"status": "not ready", "down": down} if down else {"status": "ready"}
        )
        templates = [_template(status) for status in health.templates()]
        kinds = sorted({slot.device.kind for slot in health.slots})
        body |= {"slots": slots, "process_ids": pids, "templates": templates}
        body["sandbox"] = {kind: health.sandbox(kind) for kind in kinds}
        body["control_groups"] = health.control_groups
        return JSONResponse(body, status_code=503 if down else 200)

    async def metrics(request: Request) -> Response:
        if health.keys:
            try:
                authenticate(request.headers.getlist("authorization"), health.keys)
            except Unauthorized as refusal:
                return JSONResponse(
                    {"code": refusal.code, "message": refusal.message},
                    status_code=refusal.http_status,
                    headers={"WWW-Authenticate": "Bearer"},
                )
        return Response(generate_latest(health.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ]
    )


def _template(status: TemplateStatus) -> dict[str, Any]:
    model = None if status.spec is None else status.spec.model
    return {
        "pid": status.pid,
        "state": status.state,
        "model": None if model is None else f"{model.name}@{model.version}",
        "bytes": status.size_bytes,
    }


async def serve(app: Starlette, host: str, port: int) -> None:
    """Serve until cancelled. The main thread handles signals, so none are installed here."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=StrictProtocol,
        log_config=None,
        lifespan="off",
        timeout_keep_alive=IDLE_TIMEOUT_S,
    )
    server = uvicorn.Server(config)
    try:
        await server.serve()
    finally:  # uvicorn closes its sockets only when it ends by itself
        for each in getattr(server, "servers", ()):  # it has none before it listens
            each.close()
