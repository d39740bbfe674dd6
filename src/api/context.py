"""The parts of an api process that routes work with, made once when it starts."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

import anyio
from fastapi import Depends, Request

from api.dispatch import Notifier
from api.limits import Streams, UnfinishedJobs
from api.metrics import Metrics
from api.planning import PlanningCache
from api.streaming.hub import Hub
from api.streaming.previews import Previews
from api.streaming.waits import Waits
from api.waiting.reader import QueueReader
from api.webhooks.deliverer import Deliverer
from api.webhooks.transport import Transport
from shared.db import jobs
from shared.db.engine import Database
from shared.db.events import events_after
from shared.db.waiting import read_line, waiting_steps
from shared.db.workers import live_workers
from shared.dispatch.event_channel import EventPublisher, EventSubscription
from shared.dispatch.preview_channel import PreviewSubscription
from shared.object_store import ObjectStore, open_store
from shared.settings import Settings
from shared.telemetry.setup import open_tracer
from shared.telemetry.spans import Tracer


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The parts of one api process."""

    settings: Settings
    database: Database
    store: ObjectStore
    hub: Hub
    queue: QueueReader
    previews: Previews
    planning: PlanningCache
    streams: Streams
    waits: Waits
    unfinished: UnfinishedJobs
    notifier: Notifier
    metrics: Metrics
    tracer: Tracer | None


@asynccontextmanager
async def open_context(settings: Settings, metrics: Metrics) -> AsyncIterator[Context]:
    """The parts, with their background tasks running."""
    redis_url = settings.redis_url.get_secret_value()
    publisher = EventPublisher(redis_url)

    def wake(job_ids: Collection[UUID]) -> None:
        hub.wake(job_ids)
        deliverer.wake()

    def announce(job_ids: Collection[UUID]) -> None:
        wake(job_ids)  # our own streams need no broker
        publisher.publish(job_ids)

    database = Database(
        settings.database_url.get_secret_value(), application="dreamforge-api", on_events=announce
    )
    hub = Hub(
        lambda cursors, limit: database.statement(events_after, cursors, limit=limit),
        lambda job_ids: database.statement(jobs.existing, job_ids),
        on_lag=metrics.sse_dropped.inc,
    )
    deliverer = Deliverer(database, settings, metrics, Transport(settings.webhook_private))
    subscription = EventSubscription(redis_url, wake)
    previews = Previews()
    shown = PreviewSubscription(redis_url, previews.show)
    if settings.previews:
        previews.subscription = shown
    context = Context(
        settings=settings,
        database=database,
        store=open_store(settings),
        hub=hub,
        queue=QueueReader(
            lambda: database.transaction(read_line, max_passed_s=settings.max_passed_s),
            lambda job_ids: database.statement(waiting_steps, job_ids),
        ),
        previews=previews,
        planning=PlanningCache(lambda: database.statement(live_workers)),
        streams=Streams(settings),
        waits=Waits(hub, metrics),
        unfinished=UnfinishedJobs(settings),
        notifier=Notifier(redis_url, metrics),
        metrics=metrics,
        tracer=open_tracer(settings, "dreamforge-api", metrics.count_spans),
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.run)
            tasks.start_soon(publisher.run)
            tasks.start_soon(subscription.run)
            tasks.start_soon(shown.run)
            context.notifier.start()
            if settings.webhook_secrets:  # else nothing can be signed, and no job may have one
                tasks.start_soon(deliverer.run)
            yield context
            hub.close()
            await context.notifier.finish()
            if settings.webhook_secrets:
                await deliverer.finish()
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await context.notifier.close()
            await publisher.close()
            await subscription.close()
            await shown.close()
            await database.close()
            context.store.close()
            if context.tracer is not None:
                await anyio.to_thread.run_sync(context.tracer.close)


async def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(_context)]
