"""A real API on a real socket, and writes to its database that play the worker."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID, uuid4

import anyio
import httpx
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from tests.support.database import execute

from api.app import create_app
from api.processes import server_config
from api.server import bind
from shared.db import artifacts, events, jobs, models, workers
from shared.db.engine import Connection, Database
from shared.db.models import Model
from shared.events import NewEvent
from shared.models.descriptor import (
    Defaults,
    Limits,
    ModelDescriptor,
    ModelFile,
    Range,
    Source,
    checkpoint_hash,
)
from shared.object_store import ObjectStore, open_store
from shared.settings import Settings
from shared.states import Reason, Status
from shared.step_store import StoredArtifact

P = ParamSpec("P")
T = TypeVar("T")
BODY: dict[str, Any] = {"type": "generate", "prompt": "a red apple"}


def settings_of(environment: Mapping[str, str], **changes: Any) -> Settings:
    values: dict[str, Any] = {
        name.removeprefix("DF_").lower(): value for name, value in environment.items()
    }
    return Settings(**(values | changes))


def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


def descriptor(name: str = "tiny", version: str = "1", **changes: Any) -> ModelDescriptor:
    files = (
        ModelFile(
            path="unet/x.safetensors",
            size_bytes=1,
            sha256=hashlib.sha256(f"{name}@{version}".encode()).hexdigest(),
        ),
    )
    span = Range(min=16, max=512)
    facts: dict[str, Any] = {
        "name": name,
        "version": version,
        "kind": "sd",
        "source": Source(uri="local"),
        "files": files,
        "checkpoint_sha256": checkpoint_hash(files),
        "defaults": Defaults(width=64, height=64, steps=4, guidance=7.5),
        "limits": Limits(width=span, height=span),
    }
    return ModelDescriptor(**(facts | changes))


@dataclass(frozen=True, slots=True)
class Api:
    """A running API: `client` speaks to it, the rest plays the other parts."""

    base: str
    client: httpx.Client
    settings: Settings
    server: uvicorn.Server
    portal: BlockingPortal  # to the event loop of `database`
    database: Database

    def transaction(
        self,
        work: Callable[Concatenate[Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self.server.should_exit:  # its block has ended, or is about to
            return anyio.run(partial(self._transaction_of_its_own, work, *args, **kwargs))
        return self.portal.call(partial(self.database.transaction, work, *args, **kwargs))

    async def _transaction_of_its_own(
        self,
        work: Callable[Concatenate[Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        database = Database(self.settings.database_url.get_secret_value(), application="test")
        try:
            return await database.transaction(work, *args, **kwargs)
        finally:
            await database.close()

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any."""
        url = self.settings.database_url.get_secret_value()
        return execute(url, statement, *values)

    def install(self, **changes: Any) -> Model:
        return self.transaction(models.upsert_model, descriptor(**changes))

    def create(self, **changes: Any) -> str:
        """Create a job; its id."""
        answer = self.client.post("/v1/jobs", json=BODY | changes)
        assert answer.status_code == 202, answer.text
        created: str = answer.json()["job"]["id"]
        return created

    def step_of(self, job_id: str) -> UUID:
        """Its first step."""
        query = "SELECT id FROM steps WHERE job_id = %s ORDER BY position LIMIT 1"
        ((step_id,),) = self.sql(query, job_id)
        assert isinstance(step_id, UUID)
        return step_id

    def append(self, job_id: str, *new: NewEvent) -> int:
        return self.transaction(events.append_events, UUID(job_id), new)

    def progress(self, job_id: str, *values: float, **payload: Any) -> int:
        """Write `progress` events as a worker does."""
        step_id = self.step_of(job_id)
        return self.append(
            job_id,
            *(
                NewEvent(
                    code="progress",
                    message="sampling",
                    step_id=step_id,
                    item_index=payload.get("item_index"),
                    payload={"progress": value, "stage": "sampling"} | payload,
                )
                for value in values
            ),
        )

    def lease(self, job_id: str, state: str = "running") -> None:
        """Make its step an owned one."""
        self.sql(
            "UPDATE steps SET state = %s, lease_owner = %s, lease_expires_at = now() + '1 hour' "
            "WHERE job_id = %s",
            state,
            uuid4(),
            job_id,
        )

    def finish(
        self,
        job_id: str,
        status: Status = Status.SUCCEEDED,
        reason: Reason = Reason.COMPLETED,
        error: dict[str, Any] | None = None,
    ) -> None:
        """End step and job as a worker does."""
        self.sql(
            "UPDATE steps SET state = %s, reason = %s, finished_at = now(), lease_owner = NULL, "
            "lease_expires_at = NULL WHERE job_id = %s",
            status.value,
            reason.value,
            job_id,
        )
        self.transaction(jobs.finish_job, UUID(job_id), status=status, reason=reason, error=error)

    async def ensure_bucket(self) -> None:
        """What the start of a real process does; this one is served from within the test."""
        store = open_store(self.settings)
        try:
            await store.ensure_bucket()
        finally:
            store.close()

    def artifact(self, job_id: str, item_index: int, data: bytes, seed: int = 42) -> str:
        """Store a picture and its row; its key."""
        key = f"dreamforge/default/jobs/{job_id}/generate/1_{item_index}_64x64_{seed}.png"
        sha256 = hashlib.sha256(data).hexdigest()

        async def upload() -> None:
            await self.ensure_bucket()
            store: ObjectStore = open_store(self.settings)
            try:
                await store.put(key, data, content_type="image/png", sha256=sha256)
            finally:
                store.close()

        anyio.run(upload)
        stored = StoredArtifact(
            item_index=item_index,
            format="png",
            width=64,
            height=64,
            seed=seed,
            s3_key=key,
            sha256=sha256,
            size_bytes=len(data),
        )
        step_id = self.step_of(job_id)
        assert self.transaction(
            artifacts.insert_artifact,
            job_id=UUID(job_id),
            step_id=step_id,
            step="generate",
            artifact=stored,
        )
        return key

    def worker(self, *models_: Model, capacity_bytes: int = 1 << 40, device: str = "cpu") -> UUID:
        """A live worker with one slot."""
        slot = workers.Slot(
            id="0",
            device=device,
            device_class=device,
            capacity_bytes=capacity_bytes,
            state="free",
            free_bytes=capacity_bytes - 7,
            holders={"77": 7},
        )
        row = workers.Worker(
            id=uuid4(),
            host="here",
            version="1",
            queues=["default"],
            slots=[slot],
            models={model.id: model.checkpoint_sha256 for model in models_},
        )
        self.transaction(workers.upsert, row)
        return row.id


@contextmanager
def running_api(environment: Mapping[str, str], **changes: Any) -> Iterator[Api]:
    """An API in a thread of this process, with its own event loop and a real socket."""
    with running_at(0, environment, **changes) as api:
        yield api


@contextmanager
def running_at(port: int, environment: Mapping[str, str], **changes: Any) -> Iterator[Api]:
    """The same on this port."""
    settings = settings_of(environment, **changes)
    listener = bind("127.0.0.1", port)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(server_config(create_app(settings)))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive(), "the API serves")
        assert server.started
        with (
            httpx.Client(base_url=base, timeout=20, trust_env=False) as client,
            start_blocking_portal() as portal,
        ):
            database = Database(settings.database_url.get_secret_value(), application="test")
            try:
                yield Api(base, client, settings, server, portal, database)
            finally:
                portal.call(database.close)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the API did not end"
