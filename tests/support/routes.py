"""Every address that our two services answer to."""

from __future__ import annotations

from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette

from api.export_openapi import application
from supervisor import health
from supervisor.metrics import Metrics
from supervisor.slots.table import SlotTable


def routes(app: Starlette) -> set[str]:
    """Every address of the application, those that its OpenAPI document hides included."""
    addresses = set()
    for route in iter_route_contexts(app.routes):
        # HEAD comes with each plain GET.
        addresses |= {f"{method} {route.path}" for method in (route.methods or set()) - {"HEAD"}}
    return addresses


def api_routes() -> set[str]:
    return routes(application())


def worker_routes() -> set[str]:
    return routes(worker_app())


def worker_app() -> Starlette:
    """What a worker serves; it opens nothing."""
    state = health.Health(metrics=Metrics(), slots=SlotTable([]), checks={}, draining=lambda: False)
    return health.create_app(state)
