"""One pass over what is past its age: `dreamforge prune`, and daily in each worker.

Order, and why it may be killed anywhere: a row goes first, in a committed batch, then its object.
What dies in between leaves an object that no row names, and the last part of every pass deletes
those. Jobs go after their artifacts, for the settings say that jobs are kept at least as long.

An object that no row names is deleted only when it is older than any upload can still wait for its
row (`Timings.orphan_age_s`). Younger ones may belong to an upload that goes on. A pass reads only
keys under our prefix, so two installations must not share a bucket.
"""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from shared.db import retention as rows
from shared.db.engine import Database
from shared.errors import InfraUnavailable
from shared.object_store import StoredObject
from shared.settings import Settings
from shared.timings import TIMINGS

log = logging.getLogger(__name__)

PREFIX = "dreamforge/"
# Rows per transaction: some tenths of a second, so that no other transaction waits for long, and
# statements stay far below their time-out of 15 s. Steps and remaining events go with their job.
ARTIFACTS, INPUTS, EVENTS, JOBS = 500, 500, 5000, 100
OBJECTS = 1000  # S3 lists so many at once


class Objects(Protocol):
    """The object store, as far as a pass needs it. Raises `InfraUnavailable`."""

    async def ping(self) -> None: ...

    async def delete(self, key: str) -> None: ...

    async def page(self, prefix: str, *, after: str, limit: int) -> list[StoredObject]: ...


@dataclass(kw_only=True, slots=True)
class Pruned:
    """What was deleted, or would be. `objects` were named by a row, `orphans` by none."""

    artifacts: int = 0
    inputs: int = 0
    objects: int = 0
    deliveries: int = 0
    events: int = 0
    jobs: int = 0
    usage: int = 0
    workers: int = 0
    orphans: int = 0


async def prune(
    database: Database, objects: Objects, settings: Settings, *, dry_run: bool = False
) -> Pruned | None:
    """Delete what is past its age; None when another pass is under way on this database.

    Raises `InfraUnavailable`; what was done until then stays done, and the next pass does the rest.
    """
    async with database.try_lock(rows.ADVISORY_LOCK) as acquired:
        if not acquired:
            return None
        # No row is deleted while its object cannot be.
        await objects.ping()
        one_pass = _Pass(database, objects, settings)
        if dry_run:
            return await one_pass.look()
        return await one_pass.delete()


class _Pass:
    def __init__(self, database: Database, objects: Objects, settings: Settings) -> None:
        self._database = database
        self._objects = objects
        self._settings = settings

    async def look(self) -> Pruned:
        due = await self._database.transaction(
            rows.due,
            artifacts_s=self._settings.retain_artifacts_s,
            inputs_s=self._settings.retain_inputs_s,
            events_s=self._settings.retain_events_s,
            jobs_s=self._settings.retain_jobs_s,
            usage_s=self._settings.retain_usage_s,
        )
        orphans = sum([len(keys) async for keys in self._orphans()])
        return Pruned(**due, objects=due["artifacts"] + due["inputs"], orphans=orphans)

    async def delete(self) -> Pruned:
        settings, done = self._settings, Pruned()
        while keys := await self._database.transaction(
            rows.delete_artifacts, age_s=settings.retain_artifacts_s, limit=ARTIFACTS
        ):
            done.artifacts += len(keys)
            for key in keys:
                await self._objects.delete(key)
                done.objects += 1
        while keys := await self._database.transaction(
            rows.delete_inputs, age_s=settings.retain_inputs_s, limit=INPUTS
        ):
            done.inputs += len(keys)
            for key in keys:
                await self._objects.delete(key)
                done.objects += 1
        while count := await self._database.transaction(
            rows.delete_events, age_s=settings.retain_events_s, limit=EVENTS
        ):
            done.events += count
        while count := await self._database.transaction(
            rows.delete_deliveries, age_s=settings.retain_events_s, limit=EVENTS
        ):
            done.deliveries += count
        while count := await self._database.transaction(
            rows.delete_jobs, age_s=settings.retain_jobs_s, limit=JOBS
        ):
            done.jobs += count
        done.usage = await self._database.transaction(
            rows.delete_usage, age_s=settings.retain_usage_s
        )
        done.workers = await self._database.transaction(rows.delete_workers)
        async for keys in self._orphans():
            for key in keys:
                await self._objects.delete(key)
                done.orphans += 1
        return done

    async def _orphans(self) -> AsyncIterator[list[str]]:
        """Keys of old objects that no row names, a listing's page at a time."""
        limit = datetime.now(UTC) - timedelta(seconds=TIMINGS.orphan_age_s)
        after = ""
        while page := await self._objects.page(PREFIX, after=after, limit=OBJECTS):
            if page[-1].key <= after:  # we would list the same page for ever
                raise InfraUnavailable("the object store does not list from a key on")
            after = page[-1].key
            old = [
                stored.key
                for stored in page
                if stored.modified_at is not None and stored.modified_at < limit
            ]
            if old:
                known = await self._database.transaction(rows.named, old)
                yield [key for key in old if key not in known]
