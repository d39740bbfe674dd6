"""Stored rows as the answers that clients get."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from api.schemas import responses as out
from shared.db.artifacts import Artifact
from shared.db.create_job import Created
from shared.db.inputs import Input
from shared.db.jobs import Job, Step
from shared.db.models import Model
from shared.db.usage import NO_MODEL, Usage
from shared.db.workers import Worker
from shared.models.descriptor import parts_of


def created(job: Created) -> out.Created:
    """The same for the first answer and for every replay of it: as first answered, `queued`."""
    return out.Created(job=out.CreatedJob(**_fields(out.CreatedJob, job), status="queued"))


def job(row: Job, steps: Sequence[Step], queue: out.QueueOut | None) -> out.JobOut:
    return out.JobOut(
        **_fields(out.JobOut, row) | {"error": None if row.error is None else _error(row.error)},
        queue=queue,
        steps=[out.StepOut(**_fields(out.StepOut, step), attempts=step.attempt) for step in steps],
        summary=out.Summary(count=row.count, completed=row.completed),
    )


def artifact(row: Artifact, url: str, expires_at: datetime) -> out.ArtifactOut:
    return out.ArtifactOut(**_fields(out.ArtifactOut, row), url=url, expires_at=expires_at)


def input(row: Input, expires_at: datetime) -> out.InputOut:
    return out.InputOut(**_fields(out.InputOut, row), expires_at=expires_at)


def model(row: Model, live: Sequence[Worker]) -> out.ModelOut:
    return out.ModelOut(
        **_fields(out.ModelOut, row),
        installed=any(worker.has_model(row.id, row.checkpoint_sha256) for worker in live),
        warm=[worker.id for worker in live if row.id in worker.warm],
        scale=row.descriptor.get("scale"),
        parts=parts_of(row.descriptor),
    )


def usage(row: Usage) -> out.UsageOut:
    return out.UsageOut(
        **_fields(out.UsageOut, row) | {"model": None if row.model == NO_MODEL else row.model},
        jobs=out.EndedJobs(
            succeeded=row.jobs_succeeded, failed=row.jobs_failed, cancelled=row.jobs_cancelled
        ),
    )


def _fields(answer: type[BaseModel], row: object) -> dict[str, Any]:
    """The fields of an answer that its row has under the same names."""
    return {name: getattr(row, name) for name in answer.model_fields if hasattr(row, name)}


def _error(stored: dict[str, object]) -> out.JobError:
    details = stored.get("details")
    return out.JobError(
        code=str(stored.get("code", "internal")),
        message=str(stored.get("message", "")),
        details=details if isinstance(details, dict) else {},
    )
