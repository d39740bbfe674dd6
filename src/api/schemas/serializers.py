"""Stored rows as the answers that clients get."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from api.schemas import responses as out
from shared.db.activity import Span
from shared.db.artifacts import Artifact
from shared.db.backlog import Waiting
from shared.db.create_job import Created
from shared.db.dead_letters import DeadJob
from shared.db.deliveries import Delivery
from shared.db.inputs import Input
from shared.db.jobs import Asked, Job, Step
from shared.db.models import Model
from shared.db.usage import NO_MODEL, OTHER_VALUES, Usage
from shared.db.workers import Slot, Worker
from shared.dispatch.dead_letters import DeadMessage
from shared.models.descriptor import parts_of


def created(job: Created) -> out.Created:
    """The same for the first answer and for every replay of it: as first answered, `queued`."""
    return out.Created(job=out.CreatedJob(**_fields(out.CreatedJob, job), status="queued"))


def job(
    row: Job,
    steps: Sequence[Step],
    queue: out.QueueOut | None,
    asked: Asked = (None, None),
) -> out.JobOut:
    return out.JobOut(
        **_fields(out.JobOut, row),
        queue=queue,
        request=asked[0],
        parameters=asked[1],
        steps=[out.StepOut(**_fields(out.StepOut, step), attempts=step.attempt) for step in steps],
        summary=out.Summary(count=row.count, completed=row.completed),
    )


def artifact(row: Artifact, url: str, expires_at: datetime) -> out.ArtifactOut:
    return out.ArtifactOut(**_fields(out.ArtifactOut, row), url=url, expires_at=expires_at)


def input(row: Input, expires_at: datetime) -> out.InputOut:
    return out.InputOut(**_fields(out.InputOut, row), expires_at=expires_at)


def model(row: Model, live: Sequence[Worker]) -> out.ModelOut:
    scale = row.descriptor.get("scale")
    return out.ModelOut(
        **_fields(out.ModelOut, row),
        installed=any(worker.has_model(row.id, row.checkpoint_sha256) for worker in live),
        warm=[worker.id for worker in live if row.id in worker.warm],
        family=row.descriptor.get("family"),
        scale=scale if isinstance(scale, int) else None,
        parts=parts_of(row.descriptor),
    )


def models(rows: Sequence[Model], live: Sequence[Worker]) -> out.Models:
    return out.Models(
        models=[model(row, live) for row in rows],
        data=[
            out.ListedModel(id=row.label, created=int(row.created_at.timestamp()))
            for row in rows
            if row.enabled and {"generate", "edit"} & set(row.capabilities)
        ],
    )


def usage(row: Usage) -> out.UsageOut:
    return out.UsageOut(
        **_fields(out.UsageOut, row) | {"model": None if row.model == NO_MODEL else row.model},
        jobs=out.EndedJobs(
            succeeded=row.jobs_succeeded, failed=row.jobs_failed, cancelled=row.jobs_cancelled
        ),
        tag=None
        if row.tag_key is None
        else out.UsageTag(
            key=row.tag_key, value=None if row.tag_value == OTHER_VALUES else row.tag_value
        ),
    )


def worker(
    row: Worker, names: Mapping[UUID, str], own: Collection[UUID], *, sees_all: bool
) -> out.WorkerOut:
    """`names` has name@version by model. `own` are the caller's jobs, `sees_all` an admin."""
    facts = {
        "host": row.host if sees_all else None,
        "models": _names(row.models, names),
        "warm": _names(row.warm, names),
        "serves": out.ServesOut(
            priorities=list(row.serves.priorities),
            users=list(row.serves.users) if sees_all or not row.serves.users else None,
        ),
        "slots": [_slot(slot, own, sees_all=sees_all) for slot in row.slots],
    }
    return out.WorkerOut(**_fields(out.WorkerOut, row) | facts)


def _slot(slot: Slot, own: Collection[UUID], *, sees_all: bool) -> out.WorkerSlot:
    mine = slot.job_id in own
    facts = {
        "total_bytes": slot.capacity_bytes,
        "job_id": slot.job_id if sees_all or mine else None,
        "mine": mine,
        "holders": slot.holders if sees_all else None,
    }
    return out.WorkerSlot(**_fields(out.WorkerSlot, slot) | facts)


def _names(models: Iterable[UUID], names: Mapping[UUID, str]) -> list[str]:
    """Of a model that was removed a moment ago the row of a worker may still tell."""
    return sorted(names[each] for each in models if each in names)


def waiting(row: Waiting) -> out.WaitingOut:
    return out.WaitingOut(**_fields(out.WaitingOut, row))


def activity(spans: Sequence[Span], exact: bool) -> out.Activity:
    return out.Activity(spans=[_span(each) for each in spans], exact=exact)


def _span(row: Span) -> out.ActivitySpan:
    wait_s = None
    if row.median_wait_s is not None and row.longest_wait_s is not None:
        wait_s = out.WaitSeconds(median=row.median_wait_s, longest=row.longest_wait_s)
    return out.ActivitySpan(
        start=row.start,
        jobs=out.EndedJobs(succeeded=row.succeeded, failed=row.failed, cancelled=row.cancelled),
        pictures=row.pictures,
        wait_s=wait_s,
    )


def dead_job(row: DeadJob, caller: str) -> out.DeadLetter:
    return out.DeadLetter(
        kind="job",
        id=str(row.id),
        since=row.finished_at,
        user=row.user,
        reason=row.why,
        job_id=str(row.id),
        mine=row.user == caller,
        replayable=True,
    )


def dead_webhook(row: Delivery, caller: str) -> out.DeadLetter:
    return out.DeadLetter(
        kind="webhook",
        id=row.id,
        since=row.created_at,
        user=row.user,
        reason=f"{row.event} to {row.host}: {row.last_error or 'not taken'}",
        job_id=str(row.job_id),
        mine=row.user == caller,
        replayable=True,
    )


def dead_message(row: DeadMessage) -> out.DeadLetter:
    return out.DeadLetter(
        kind="message",
        id=row.id,
        since=_moment(row.received_at),
        user=None,
        reason=f"{row.queue}: {row.reason}",
        job_id=None,
        mine=False,
        replayable=False,
    )


def _moment(text: str) -> datetime | None:
    """Whoever can reach the broker may have written it."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the first and last hours of all have no UTC
        return None


def _fields(answer: type[BaseModel], row: object) -> dict[str, Any]:
    """The fields of an answer that its row has under the same names."""
    return {name: getattr(row, name) for name in answer.model_fields if hasattr(row, name)}
