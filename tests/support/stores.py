"""The two stores of steps, each with what the rest of the system does around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID, uuid4

from tests.support.database import execute
from tests.support.memory_store import MemoryStepStore, Work

from shared.db import tables as t
from shared.db.create_job import create_job
from shared.db.engine import Database
from shared.db.insert_job import NewJob, NewStep
from shared.db.step_store import PostgresStepStore
from shared.db.tables import values_of
from shared.db.transitions import request_cancel
from shared.events import Code, NewEvent
from shared.states import Reason, StepState
from shared.step_store import AttemptResult, Claim, ClaimRequest, StepStore, StoredArtifact

WORKER = uuid4()
CHECKSUM = "0" * 64


class Subject(Protocol):
    """A store, and what the rest of the system does around it."""

    @property
    def store(self) -> StepStore: ...
    @property
    def model_id(self) -> UUID: ...
    async def create(self, *works: Work, count: int = 1) -> UUID: ...
    async def add_model(self) -> UUID: ...
    async def cancel(self, job_id: UUID) -> None: ...
    async def steps(self, job_id: UUID) -> list[dict[str, Any]]: ...
    async def job(self, job_id: UUID) -> dict[str, Any]: ...
    async def codes(self, job_id: UUID) -> list[str]: ...


STEP_FACTS = (
    "id", "state", "reason", "error", "attempt", "losses", "epoch", "lease_owner"
)  # fmt: skip


TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"


class InMemory:
    def __init__(self, store: MemoryStepStore | None = None) -> None:
        self.store = store or MemoryStepStore()
        self.model_id = self.store.model_id

    async def create(self, *works: Work, count: int = 1) -> UUID:
        job_id = self.store.create(*works, count=count)
        self.store.jobs[job_id].traceparent = TRACEPARENT
        return job_id

    async def add_model(self) -> UUID:
        return uuid4()  # the store keeps no record of models

    async def cancel(self, job_id: UUID) -> None:
        self.store.request_cancel(job_id)

    async def steps(self, job_id: UUID) -> list[dict[str, Any]]:
        return [
            {name: getattr(step, name) for name in STEP_FACTS}
            for step in self.store.steps_of(job_id)
        ]

    async def job(self, job_id: UUID) -> dict[str, Any]:
        job = self.store.jobs[job_id]
        return {"status": job.status, "reason": job.reason}

    async def codes(self, job_id: UUID) -> list[str]:
        return [str(event.code) for event in self.store.jobs[job_id].events]


class InPostgres:
    def __init__(self, database: Database, url: str) -> None:
        self.store = PostgresStepStore(database)
        self.database = database
        self._url = url
        self.model_id = self._insert_model("1")

    async def add_model(self) -> UUID:
        return self._insert_model(str(uuid4()))

    def _insert_model(self, version: str) -> UUID:
        model_id = uuid4()
        self._execute(
            "INSERT INTO models (id, name, version, kind, checkpoint_sha256, descriptor,"
            " parameters_schema, capabilities)"
            " VALUES (%s, 'tiny', %s, 'sd', %s, '{}', '{}', '[]')",
            model_id,
            version,
            CHECKSUM,
        )
        return model_id

    async def create(
        self,
        *works: Work,
        count: int = 1,
        tags: dict[str, str] | None = None,
        usage_tags: Sequence[str] = (),
    ) -> UUID:
        new = NewJob(
            id=uuid4(),
            tags=tags or {},
            usage_tags=usage_tags,
            type="generate",
            user=works[0].user,
            request={},
            count=count,
            priority=works[0].priority,
            weight=works[0].weight,
            correlation_id="correlation",
            traceparent=TRACEPARENT,
            steps=[self.new_step(work) for work in works],
        )
        await self.database.transaction(create_job, new)
        return new.id

    def new_step(self, work: Work) -> NewStep:
        facts = values_of(t.steps, work)
        for name in ("model_id", "user", "priority", "weight"):
            del facts[name]
        model = (work.model_id or self.model_id, CHECKSUM) if work.needs_model else (None, None)
        return NewStep(id=uuid4(), model_id=model[0], checkpoint_sha256=model[1], **facts)

    async def cancel(self, job_id: UUID) -> None:
        await self.database.transaction(request_cancel, job_id)

    async def steps(self, job_id: UUID) -> list[dict[str, Any]]:
        rows = self._execute(
            f"SELECT {', '.join(STEP_FACTS)} FROM steps WHERE job_id = %s ORDER BY position", job_id
        )
        return [dict(zip(STEP_FACTS, row, strict=True)) for row in rows]

    async def job(self, job_id: UUID) -> dict[str, Any]:
        ((status, reason),) = self._execute("SELECT status, reason FROM jobs WHERE id = %s", job_id)
        return {"status": status, "reason": reason}

    async def codes(self, job_id: UUID) -> list[str]:
        rows = self._execute("SELECT code FROM events WHERE job_id = %s ORDER BY seq", job_id)
        return [row[0] for row in rows]

    def _execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return execute(self._url, statement, *values)


def claim_request(subject: Subject, **changes: Any) -> ClaimRequest:
    usual = ClaimRequest(
        worker_id=WORKER,
        slot="cpu-0",
        queues=("default",),
        device="cpu",
        capacity_bytes=1000,
        models=(subject.model_id,),
        lease_s=60.0,
    )
    return replace(usual, **changes)


async def claim(subject: Subject, **changes: Any) -> Claim:
    taken = await subject.store.claim(claim_request(subject, **changes))
    assert taken is not None
    return taken


async def claimed_job(subject: Subject, *works: Work, count: int = 1) -> tuple[UUID, Claim]:
    job = await subject.create(*(works or (Work(),)), count=count)
    return job, await claim(subject)


def note(code: Code = Code.RUNNER_LOG) -> NewEvent:
    return NewEvent(code=code, message="a fact")


def ended(state: StepState, reason: Reason | None, **changes: Any) -> AttemptResult:
    error = (
        None if reason is Reason.COMPLETED else {"code": str(reason), "message": "", "details": {}}
    )
    return replace(
        AttemptResult(state=state, reason=reason, attempt=1, losses=0, error=error), **changes
    )


SUCCESS = ended(StepState.SUCCEEDED, Reason.COMPLETED)
FAILURE = ended(StepState.FAILED, Reason.OOM)
AGAIN = ended(StepState.QUEUED, None)


def picture(item: int = 0, key: str | None = None) -> StoredArtifact:
    return StoredArtifact(
        item_index=item,
        format="png",
        width=64,
        height=64,
        seed=item,
        s3_key=key or f"key-{item}",
        sha256="a" * 64,
        size_bytes=3,
    )
