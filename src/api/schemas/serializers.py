"""Stored rows as the answers that clients get."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from api.schemas import responses as out
from shared.db.artifacts import Artifact
from shared.db.create_job import Created
from shared.db.jobs import Job, Step
from shared.db.models import Model
from shared.db.workers import Worker
from shared.models.descriptor import parts_of


def created(job: Created) -> out.Created:
    """The same for the first answer and for every replay of it: as first answered, `queued`."""
    return out.Created(
        job=out.CreatedJob(
            id=str(job.id), status="queued", type=job.type, created_at=job.created_at
        )
    )


def job(row: Job, steps: Sequence[Step]) -> out.JobOut:
    return out.JobOut(
        id=str(row.id),
        type=row.type,
        status=row.status,
        reason=row.reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        cancel_requested_at=row.cancel_requested_at,
        steps=[_step(step) for step in steps],
        summary=out.Summary(count=row.count, completed=row.completed),
        error=None if row.error is None else _error(row.error),
    )


def artifact(row: Artifact, url: str, expires_at: datetime) -> out.ArtifactOut:
    return out.ArtifactOut(
        id=str(row.id),
        step=row.step,
        item_index=row.item_index,
        format=row.format,
        width=row.width,
        height=row.height,
        seed=row.seed,
        s3_key=row.s3_key,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        url=url,
        expires_at=expires_at,
    )


def model(row: Model, live: Sequence[Worker]) -> out.ModelOut:
    return out.ModelOut(
        id=str(row.id),
        name=row.name,
        kind=row.kind,
        version=row.version,
        installed=any(worker.has_model(row.id, row.checkpoint_sha256) for worker in live),
        enabled=row.enabled,
        checkpoint_sha256=row.checkpoint_sha256,
        parameters_schema=row.parameters_schema,
        capabilities=row.capabilities,
        scale=row.descriptor.get("scale"),
        parts=parts_of(row.descriptor),
    )


def _step(step: Step) -> out.StepOut:
    return out.StepOut(
        id=str(step.id),
        name=step.name,
        type=step.type,
        status=step.status,
        reason=step.reason,
        attempts=step.attempt,
    )


def _error(stored: dict[str, object]) -> out.JobError:
    details = stored.get("details")
    return out.JobError(
        code=str(stored.get("code", "internal")),
        message=str(stored.get("message", "")),
        details=details if isinstance(details, dict) else {},
    )
