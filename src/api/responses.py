"""What clients get. Additions are free, removals are not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PlainSerializer, WithJsonSchema

from shared.states import Reason, Status


def iso(moment: datetime) -> str:
    """UTC with microseconds and a Z, whatever the database session's time zone is."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


Moment = Annotated[
    datetime,
    PlainSerializer(iso),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]


class Envelope(BaseModel):
    """Every error, from every path."""

    code: str = Field(description="stable; docs/errors.md has a section for each")
    message: str
    details: dict[str, Any]
    correlation_id: str = Field(description="equals the X-Request-Id header")


class JobError(BaseModel):
    code: str
    message: str
    details: dict[str, Any]


class StepOut(BaseModel):
    id: Id
    name: str
    type: str
    status: Status
    reason: Reason | None = Field(description="why it ended")
    attempts: int


class Summary(BaseModel):
    count: int = Field(description="items asked for")
    completed: int = Field(description="items that the last step of the chain has finished")


class JobOut(BaseModel):
    id: Id
    type: str
    status: Status
    reason: Reason | None = Field(description="why it ended; null while it has not")
    created_at: Moment
    updated_at: Moment
    finished_at: Moment | None
    cancel_requested_at: Moment | None
    steps: list[StepOut]
    summary: Summary
    error: JobError | None


class CreatedJob(BaseModel):
    id: Id
    status: Literal["queued"]
    type: str
    created_at: Moment


class Created(BaseModel):
    job: CreatedJob


class JobPage(BaseModel):
    jobs: list[JobOut]
    next_cursor: str | None = Field(description="null on the last page")


class ArtifactOut(BaseModel):
    id: Id
    step: str
    item_index: int
    format: str
    width: int
    height: int
    seed: int
    s3_key: str
    sha256: str
    size_bytes: int
    created_at: Moment
    url: str = Field(description="presigned GET")
    expires_at: Moment = Field(description="when `url` stops working")


class Artifacts(BaseModel):
    artifacts: list[ArtifactOut]


class ItemProgress(BaseModel):
    item_index: int
    progress: float = Field(ge=0, le=1)


class StageWeight(BaseModel):
    step: str
    name: str
    weight: float = Field(description="share of the whole job; all weights sum to 1")


class ProgressOut(BaseModel):
    progress: float = Field(ge=0, le=1, description="never goes back")
    status: Status
    stage: str | None = Field(
        description="what the step whose turn it is does; `queue` while it waits for a slot, also "
        "between two steps and before another try; null once the job has ended"
    )
    items: list[ItemProgress]
    stages: list[StageWeight]


class ModelOut(BaseModel):
    id: Id
    name: str
    kind: str
    version: str
    installed: bool = Field(description="a live worker has verified it")
    enabled: bool = Field(description="new jobs may use it")
    checkpoint_sha256: str = Field(description="one hash over all weights; stored on each job")
    parameters_schema: dict[str, Any] = Field(description="JSON Schema 2020-12")
    capabilities: list[str]


class Models(BaseModel):
    models: list[ModelOut]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    degraded: list[str] | None = Field(
        default=None, description="parts that are down and that we can do without for a while"
    )
