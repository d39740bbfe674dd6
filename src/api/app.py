"""The application: its routes, its middleware, its errors and its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.routing import iter_route_contexts

from api import errors
from api.admission.duplicate_keys import refuse_in_query
from api.context import open_context
from api.metrics import Metrics
from api.middleware.cors import CrossOriginMiddleware
from api.middleware.request import RequestMiddleware
from api.middleware.tracing import TracingMiddleware
from api.openapi import page as reference
from api.openapi.schema import DocumentedApi
from api.page import serve as page
from api.routes import (
    activity,
    dead_letters,
    events,
    health,
    images,
    inputs,
    jobs,
    models,
    usage,
    workers,
)
from api.streaming.hub import Hub
from shared.settings import Settings

TITLE = "Dream Forge"
DESCRIPTION = (
    "A self-hosted render fabric: a prompt becomes a tracked, reproducible job on your own "
    "GPUs.\n\n"
    "Create a job, follow its stream, fetch its pictures. Every error has one shape, and its "
    "`code` a section in docs/errors.md."
)


def create_app(settings: Settings) -> FastAPI:
    """The API for these settings. Nothing is opened before the application starts."""
    metrics = Metrics(shared=settings.api_processes > 1)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Hub]]:
        async with open_context(settings, metrics) as context:
            app.state.context = context
            yield {"hub": context.hub}  # for the connections, which end its streams

    app = DocumentedApi(
        title=TITLE,
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        openapi_url=None,  # a route of another kind, whose 405 knows no route; ours is in page
        docs_url=None,  # FastAPI's page comes from a CDN; ours is api.openapi.page
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_in_query)],
        separate_input_output_schemas=False,
        # FastAPI has its own telemetry, which an environment variable turns on. It would record
        # whole requests, bodies included. Ours is api.middleware.tracing.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    errors.install(app)
    v1 = (jobs, inputs, events, images, models, usage, activity, workers, dead_letters)
    for part in (*v1, health, reference, page):
        app.include_router(part.router)
    # FastAPI compiles a router's routes at its first request. This does it at the start.
    for route in iter_route_contexts(app.routes):
        metrics.init_route(
            route.path_format or "", route.methods or (), getattr(route, "responses", ())
        )
    if settings.otlp_endpoint is not None:
        app.add_middleware(
            TracingMiddleware, tracer=lambda: app.state.context.tracer, ratio=settings.trace_ratio
        )
    app.add_middleware(RequestMiddleware, metrics=metrics, settings=settings)
    if settings.cors_origins:  # last, which makes it the outermost
        app.add_middleware(CrossOriginMiddleware, origins=settings.cors_origins)
    return app
