"""What is read of the API's answers; `exchange.typed_answer` proves an answer to be of these types.

An answer may have more fields, of a newer API. A field that is not required may be missing, of an
older one.
"""

import re
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from shared.typed_json import Moment, Rule, Share

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
# They become parts of addresses and of file names: what names another folder is no word.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Word = Annotated[str, Rule("a short word", lambda text: _WORD.fullmatch(text) is not None)]
Cursor = Annotated[str, Rule("some text", lambda text: bool(text))]


class JobError(TypedDict):
    message: str
    code: NotRequired[str]


class Step(TypedDict):
    name: str
    status: str


class Summary(TypedDict):
    count: int
    completed: int


class Span(TypedDict):
    low: int
    high: int


class Queue(TypedDict):
    position: int
    exact: NotRequired[bool]
    starts_in_s: NotRequired[Span | None]


class Job(TypedDict):
    """A job as a create, a look, a list or a cancel answers it."""

    id: Word
    status: Status
    created_at: NotRequired[str]
    finished_at: NotRequired[str | None]
    cancel_requested_at: NotRequired[str | None]
    error: NotRequired[JobError | None]
    steps: NotRequired[list[Step]]
    summary: NotRequired[Summary]
    queue: NotRequired[Queue | None]
    tags: NotRequired[dict[str, str]]
    request: NotRequired[dict[str, Any] | None]


class CreatedJob(TypedDict):
    job: Job


class JobPage(TypedDict):
    jobs: list[Job]
    next_cursor: NotRequired[Cursor | None]


class Artifact(TypedDict):
    item_index: int
    seed: int
    format: Word
    url: str
    step: NotRequired[str]
    width: int
    height: int
    sha256: str
    size_bytes: NotRequired[int]


class Artifacts(TypedDict):
    artifacts: list[Artifact]


class JobProgress(TypedDict):
    progress: Share


class LogLine(TypedDict):
    ts: str
    level: str
    code: str
    message: str


class Input(TypedDict):
    id: Word


class Uploaded(TypedDict):
    input: Input


class Parameter(TypedDict):
    """What a model takes for a field of a request, as JSON Schema says it."""

    default: NotRequired[Any]
    enum: NotRequired[list[Any]]
    maxItems: NotRequired[int]
    maxLength: NotRequired[int]
    minimum: NotRequired[float]
    maximum: NotRequired[float]
    exclusiveMinimum: NotRequired[float]
    format: NotRequired[str]
    multipleOf: NotRequired[float]


class ParametersSchema(TypedDict):
    properties: NotRequired[dict[str, Parameter]]


class Model(TypedDict):
    id: Word
    name: str
    version: str
    kind: str
    family: NotRequired[str | None]
    scale: NotRequired[int | None]
    installed: bool
    enabled: bool
    warm: list[str]
    checkpoint_sha256: str
    parameters_schema: ParametersSchema
    parts: NotRequired[dict[str, dict[str, Any]]]


class Models(TypedDict):
    models: list[Model]


class EndedJobs(TypedDict):
    succeeded: int
    failed: int
    cancelled: int


class UsageTag(TypedDict):
    key: str
    value: str | None


class Usage(TypedDict):
    day: str
    user: str
    model: str | None
    jobs: EndedJobs
    pictures: int
    run_seconds: float
    wait_seconds: float
    device_byte_seconds: float
    tag: NotRequired[UsageTag | None]


class UsagePage(TypedDict):
    usage: list[Usage]
    next_cursor: Cursor | None


Slot = TypedDict(
    "Slot",
    {
        "id": str,
        "class": str,
        "state": str,
        "total_bytes": int,
        "free_bytes": int | None,
        "job_id": str | None,
    },
)


class Worker(TypedDict):
    id: str
    host: str | None
    slots: list[Slot]


class Waiting(TypedDict):
    waiting: int
    exact: bool
    priority: str
    user: str
    device: str


class Workers(TypedDict):
    workers: list[Worker]
    queue: list[Waiting]


class Event(TypedDict):
    """A message of a job's stream. `seq` is missing from those that are no events."""

    code: str
    seq: NotRequired[int]
    ts: NotRequired[Moment]
    level: NotRequired[str]
    message: NotRequired[str]
    payload: NotRequired[dict[str, Any] | None]


class Progress(TypedDict):
    progress: NotRequired[Share]
    stage: NotRequired[str | None]
    item_index: NotRequired[int | None]
    count: NotRequired[int]


class Finish(TypedDict):
    status: NotRequired[Status]


# What is read of an event's payload, by its code.
PAYLOADS = {"queue": Queue, "progress": Progress, "job.finish": Finish}
