"""From what is stored to what is shown."""

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


def job(found: Job, steps: Sequence[Step]) -> out.JobOut:
    return out.JobOut(
        id=str(found.id),
        type=found.type,
        status=found.status,
        reason=found.reason,
        created_at=found.created_at,
        updated_at=found.updated_at,
        finished_at=found.finished_at,
        cancel_requested_at=found.cancel_requested_at,
        steps=[_step(step) for step in steps],
        summary=out.Summary(count=found.count, completed=found.completed),
        error=None if found.error is None else _error(found.error),
    )


def artifact(found: Artifact, url: str, expires_at: datetime) -> out.ArtifactOut:
    return out.ArtifactOut(
        id=str(found.id),
        step=found.step,
        item_index=found.item_index,
        format=found.format,
        width=found.width,
        height=found.height,
        seed=found.seed,
        s3_key=found.s3_key,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        created_at=found.created_at,
        url=url,
        expires_at=expires_at,
    )


def model(found: Model, live: Sequence[Worker]) -> out.ModelOut:
    return out.ModelOut(
        id=str(found.id),
        name=found.name,
        kind=found.kind,
        version=found.version,
        installed=any(worker.models.get(found.id) == found.checkpoint_sha256 for worker in live),
        enabled=found.enabled,
        checkpoint_sha256=found.checkpoint_sha256,
        parameters_schema=found.parameters_schema,
        capabilities=found.capabilities,
        scale=found.descriptor.get("scale"),
        parts=parts_of(found.descriptor),
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
