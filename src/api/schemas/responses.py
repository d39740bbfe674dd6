"""What clients get. A field may be added, and none removed."""

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from shared.models.descriptor import PartSize
from shared.states import Priority, Reason, Status


def iso(moment: datetime) -> str:
    """UTC with microseconds and a Z, whatever the database session's time zone is."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


Moment = Annotated[
    datetime,
    PlainSerializer(iso),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Id = Annotated[str, BeforeValidator(str), Field(json_schema_extra={"format": "uuid"})]


class Envelope(BaseModel):
    """Every error, from every path."""

    code: str = Field(description="stable; docs/errors.md has a section for each")
    message: str = Field(description="for people: what is wrong, and what to do")
    details: dict[str, Any] = Field(description="for programs; of `invalid_input` its `errors`")
    correlation_id: str = Field(description="equals the X-Request-Id header")


class OpenAIError(Envelope):
    """An error in the words of OpenAI's clients, with what our envelope has."""

    type: str = Field(description="`invalid_request_error`, `server_error`, …; `code` says more")
    param: str | None = Field(description="the field that was refused")


class OpenAIErrorOut(BaseModel):
    error: OpenAIError


class JobError(BaseModel):
    code: str = Field(description="stable; docs/errors.md has a section for each")
    message: str = Field(description="for people")
    details: dict[str, Any]


class StepOut(BaseModel):
    id: Id
    name: str
    type: str
    status: Status
    reason: Reason | None = Field(description="why it ended; null while it has not")
    attempts: int = Field(description="how often it was started")


class Summary(BaseModel):
    count: int = Field(description="items asked for")
    completed: int = Field(description="items that the last step of the chain has finished")


class SecondsOut(BaseModel):
    """A span, rounded outwards to two digits."""

    low: int = Field(ge=0)
    high: int = Field(ge=1)


class QueueOut(BaseModel):
    """Where a job is that waits for a slot."""

    position: int = Field(ge=1, description="among the steps that the same slots serve")
    exact: bool = Field(description="false: at least so many; the line is not counted further")
    starts_in_s: SecondsOut | None = Field(
        description="from how long steps like those before it took here lately; 9 of 10 starts are "
        "meant to be within. Null where nothing is known"
    )


class JobOut(BaseModel):
    id: Id
    type: str
    status: Status
    priority: Priority = Field(description="within it, users share by the seconds that they use")
    tags: dict[str, str] = Field(description="as the create gave them")
    reason: Reason | None = Field(description="why it ended; null while it has not")
    created_at: Moment
    updated_at: Moment
    finished_at: Moment | None
    cancel_requested_at: Moment | None = Field(
        description="when somebody asked; what runs is stopped and proven gone first"
    )
    queue: QueueOut | None = Field(description="null unless a step of it waits for a slot")
    request: dict[str, Any] | None = Field(
        default=None, description="the body of its create; null in lists"
    )
    parameters: dict[str, Any] | None = Field(
        default=None,
        description="what its first step runs with: the request, and the defaults of model and "
        "preset; null in lists",
    )
    steps: list[StepOut] = Field(description="in the order in which they run")
    summary: Summary
    error: JobError | None = Field(description="null unless it failed or was cancelled")


class CreatedJob(BaseModel):
    id: Id
    status: Literal["queued"]
    type: str
    created_at: Moment


class Created(BaseModel):
    job: CreatedJob


class WaitedFor(BaseModel):
    """The answer to a create that waited: the job as it is now."""

    job: JobOut


class JobPage(BaseModel):
    jobs: list[JobOut]
    next_cursor: str | None = Field(description="null on the last page")


class InputOut(BaseModel):
    id: Id
    sha256: str = Field(description="of the file, as hex")
    format: str = Field(description="`png`, `jpg` or `webp`")
    width: int = Field(description="pixels, with the orientation applied that the file asks for")
    height: int = Field(description="pixels")
    size_bytes: int
    created_at: Moment
    expires_at: Moment = Field(description="it is kept until then at least; each job puts it off")


class InputPage(BaseModel):
    input: InputOut


class ArtifactOut(BaseModel):
    id: Id
    step: str = Field(description="name of the step that made it; the last one is the result")
    item_index: int = Field(description="from 0; the same picture in each step of a chain")
    format: str = Field(description="`png` or `jpg`")
    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    seed: int = Field(description="the one that was used; sent again, it makes this picture")
    s3_key: str = Field(description="where it is in the bucket")
    sha256: str = Field(description="of the file, as hex")
    size_bytes: int
    created_at: Moment
    url: str = Field(description="presigned GET: needs no key, and works until `expires_at`")
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
    items: list[ItemProgress] = Field(description="one for each of `count`")
    stages: list[StageWeight] = Field(description="what a job like this goes through")


class ModelOut(BaseModel):
    id: Id
    name: str
    kind: str = Field(description="family: `sd`, `sdxl`, `sd3`, `flux`, …; `lora`")
    version: str
    installed: bool = Field(description="a live worker has verified it")
    warm: list[Id] = Field(description="live workers that have it loaded between steps")
    enabled: bool = Field(description="new jobs may use it")
    checkpoint_sha256: str = Field(description="one hash over all weights; stored on each job")
    parameters_schema: dict[str, Any] = Field(description="JSON Schema 2020-12")
    capabilities: list[str] = Field(
        description="what it can do: `generate`, `upscale`, `lora` (take LoRAs), …; a LoRA: nothing"
    )
    family: str | None = Field(description="of a LoRA: the kind of the models that it changes")
    scale: int | None = Field(description="of an upscaler: times each side, by itself")
    parts: dict[str, PartSize] = Field(description="what its parts hold; memory goes by it")


class ListedModel(BaseModel):
    """A model as OpenAI's clients list it."""

    id: str = Field(description="name@version: what `model` of a request may be")
    object: Literal["model"] = "model"
    created: int = Field(description="when it was registered, in seconds since 1970")
    owned_by: Literal["dreamforge"] = "dreamforge"


class Models(BaseModel):
    models: list[ModelOut]
    object: Literal["list"] = "list"
    data: list[ListedModel] = Field(
        description="for OpenAI's clients: those that are enabled and draw by a prompt"
    )


class EndedJobs(BaseModel):
    succeeded: int
    failed: int
    cancelled: int


class UsageTag(BaseModel):
    key: str
    value: str | None = Field(
        description="null: the empty value, and those after the first 1000 of this key on this day"
    )


class UsageOut(BaseModel):
    """What one user used of one model on one day."""

    user: str
    day: date = Field(description="UTC")
    model: str | None = Field(description="name@version; null: steps that load no model")
    jobs: EndedJobs = Field(description="that ended on this day, by how; of their first model")
    pictures: int = Field(description="stored by steps with this model")
    run_seconds: float = Field(description="from the start of each execution to its end")
    device_byte_seconds: float = Field(
        description="device memory that was reserved, for as long as it ran"
    )
    wait_seconds: float = Field(
        description="from the moment a worker could take a step until one did"
    )
    tag: UsageTag | None = Field(
        description="of a query by `tag`: only jobs with this one count; null otherwise"
    )


class UsagePage(BaseModel):
    usage: list[UsageOut] = Field(description="oldest day first")
    next_cursor: str | None = Field(description="null on the last page")


class WorkerSlot(BaseModel):
    """A device that takes one step at a time."""

    model_config = ConfigDict(validate_by_name=True)

    id: str
    device: str = Field(description="`cpu` or `cuda`")
    device_class: str = Field(alias="class", description="the hardware's name")
    state: str = Field(
        description="`free`, `held` by a step, `verifying`; `quarantined`: its memory was not "
        "proven back, so it takes no work; `lost`: the device does not answer"
    )
    total_bytes: int = Field(description="what a step may use")
    free_bytes: int | None = Field(description="null until its worker has looked")
    job_id: Id | None = Field(
        description="whose step holds it; null for another user's unless an admin asks"
    )
    mine: bool = Field(description="the job is the caller's, so `GET /v1/jobs/{id}` shows it")
    holders: dict[str, int] | None = Field(
        description="bytes by process id on that host; null unless an admin asks"
    )


class ServesOut(BaseModel):
    """What a worker is kept for; nothing named is everything."""

    priorities: list[Priority]
    users: list[str] | None = Field(description="null: some, and no admin asks")


class WorkerOut(BaseModel):
    id: Id
    host: str | None = Field(description="null unless an admin asks")
    version: str
    started_at: Moment
    heartbeat_at: Moment = Field(description="when it last wrote what is shown here")
    queues: list[str]
    serves: ServesOut
    models: list[str] = Field(description="name@version of what it has verified")
    warm: list[str] = Field(description="of those, what is loaded between steps")
    slots: list[WorkerSlot]


class WaitingOut(BaseModel):
    """Steps of one user that wait for a slot."""

    device: str = Field(description="`cpu` or `cuda`")
    priority: Priority
    user: str
    waiting: int = Field(ge=1)
    exact: bool = Field(description="false: at least so many; they are not counted further")


class Workers(BaseModel):
    workers: list[WorkerOut] = Field(description="those that live, oldest first")
    queue: list[WaitingOut] = Field(description="of the caller; of all users where an admin asks")


class WaitSeconds(BaseModel):
    median: float
    longest: float


class ActivitySpan(BaseModel):
    """What ended within five minutes."""

    start: Moment
    jobs: EndedJobs
    pictures: int = Field(description="of these jobs")
    wait_s: WaitSeconds | None = Field(
        description="from create to claim, of those jobs that ran at their first attempt; null "
        "where there are none"
    )


class Activity(BaseModel):
    spans: list[ActivitySpan] = Field(description="twelve of five minutes, oldest first")
    exact: bool = Field(description="false: more jobs ended than are counted, the newest are shown")


class DeadLetter(BaseModel):
    """Something that was given up."""

    kind: Literal["job", "webhook", "message"] = Field(
        description="`job`: all attempts are used; `webhook`: its receiver took it for a day not; "
        "`message`: what a worker could not read on the broker, for admins only"
    )
    id: str = Field(description="by which it is replayed")
    since: Moment | None = Field(description="of a webhook the moment of its fact")
    user: str | None
    reason: str = Field(description="the last error, for people")
    job_id: Id | None
    mine: bool = Field(description="the job is the caller's, so `GET /v1/jobs/{id}` shows it")
    replayable: bool


class DeadLetters(BaseModel):
    dead_letters: list[DeadLetter] = Field(
        description="jobs, webhooks, then messages, each the latest first"
    )
    messages_shown: bool = Field(description="false: no admin asks, or the broker does not answer")


class Replayed(BaseModel):
    id: str = Field(description="of the dead letter")
    job_id: Id = Field(description="the new job; of a webhook its own one")


class LogLine(BaseModel):
    """One event, as a line of the log."""

    ts: Moment
    level: Level
    code: str = Field(description="what happened: `job.created`, `progress`, `job.finish`, …")
    message: str = Field(description="for people")
    job_id: Id
    step_id: Id | None = Field(description="null: the event is the job's")
    item_index: int | None = Field(default=None, description="absent where it is of no item")
    payload: dict[str, Any] | None = Field(
        default=None, description="by code; absent where there is nothing to say"
    )


class Event(BaseModel):
    """One event, as the data of a message of the stream."""

    seq: int = Field(ge=1, description="the `id` of the message: from 1, without gaps")
    ts: Moment
    level: Level
    code: str = Field(description="what happened: `job.created`, `progress`, `job.finish`, …")
    message: str = Field(description="for people")
    job_id: Id
    step_id: Id | None = Field(description="null: the event is the job's")
    item_index: int | None = Field(description="null: it is of no item")
    payload: dict[str, Any] | None = Field(
        description="by code. `progress`: `progress` of the job, `stage`, `item_index` and its "
        "`item_progress`, `step` of `steps` of the stage, `count`, `completed`. "
        "`artifact.written`: `step`, `format`, `width`, `height`, `seed`, `s3_key`, `sha256`. "
        "`error`: `code`, `message`, `details`. `job.finish`: `status`, `reason`"
    )


class QueueMessage(BaseModel):
    """Where a job is that waits, as the data of a `queue` message of the stream: no event."""

    ts: Moment
    level: Literal["INFO"]
    code: Literal["queue"]
    message: str = Field(description="for people")
    job_id: Id
    step_id: None
    item_index: None
    payload: QueueOut


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    degraded: list[str] | None = Field(
        default=None, description="parts that are down and that we can do without for a while"
    )
