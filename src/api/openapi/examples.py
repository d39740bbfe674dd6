"""Examples of answers for the OpenAPI document.

Each is made by the class or function that makes the real answer, so an example cannot differ in
form from what the API sends. All tell of one job: two pictures of a red apple, enlarged.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from api.schemas import responses as out
from shared.db.events import Event
from shared.events import Code
from shared.models.descriptor import (
    Defaults,
    Limits,
    ModelDescriptor,
    ModelFile,
    PartSize,
    Range,
    Source,
    checkpoint_hash,
    parameters_schema,
)
from shared.progress import STAGES
from shared.states import Priority, Reason, Status

JOB = UUID("5f0c6f3a-6a1c-4a55-9a43-3f3f9a1a7b10")
STEP = UUID("b1c5e1b0-3a53-4a53-8f0f-0d7f3f1d7c11")
SECOND_STEP = UUID("c2d6f2c1-4b64-4b64-9a1f-1e8a4a2e8d22")
ARTIFACT = UUID("d3e7a3d2-5c75-4c75-8b2a-2f9b5b3f9e33")
INPUT_ID = UUID("a7c1d5f6-9fb9-4fb9-8f6e-6d3f9f7d3f77")
WORKER = UUID("f5a9c5f4-7e97-4e97-8d4c-4b1d7d5b1a55")
MODEL = UUID("e4f8b4e3-6d86-4d86-9c3b-3a0c6c4a0f44")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SEED = 42
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


# Inputs -------------------------------------------------------------------------------------------

INPUT = out.InputPage(
    input=out.InputOut(
        id=str(INPUT_ID),
        sha256=SHA256,
        format="jpg",
        width=1024,
        height=768,
        size_bytes=312_456,
        created_at=NOON,
        expires_at=after(86_400),
    )
)


# Jobs ---------------------------------------------------------------------------------------------

CREATED = out.Created(
    job=out.CreatedJob(id=str(JOB), status="queued", type="generate", created_at=NOON)
)


def _step(status: Status, reason: Reason | None, *, second: bool = False) -> out.StepOut:
    name = "upscale" if second else "generate"
    return out.StepOut(
        id=str(SECOND_STEP if second else STEP),
        name=name,
        type=name,
        status=status,
        reason=reason,
        attempts=0 if status is Status.QUEUED else 1,
    )


def _job(
    status: Status,
    reason: Reason | None,
    *steps: out.StepOut,
    completed: int = 0,
    error: out.JobError | None = None,
    asked_to_stop: bool = False,
    queue: out.QueueOut | None = None,
) -> out.JobOut:
    return out.JobOut(
        id=str(JOB),
        type="generate",
        status=status,
        priority=Priority.NORMAL,
        tags={"project": "orchard"},
        reason=reason,
        created_at=NOON,
        updated_at=after(9.5),
        finished_at=None if reason is None else after(9.5),
        cancel_requested_at=after(9.5) if asked_to_stop else None,
        queue=queue,
        steps=list(steps),
        summary=out.Summary(count=2, completed=completed),
        error=error,
    )


_DONE = _step(Status.SUCCEEDED, Reason.COMPLETED)
_SUCCEEDED = _job(
    Status.SUCCEEDED,
    Reason.COMPLETED,
    _DONE,
    _step(Status.SUCCEEDED, Reason.COMPLETED, second=True),
    completed=2,
)
_RUNNING = _job(Status.RUNNING, None, _DONE, _step(Status.RUNNING, None, second=True), completed=1)
_TIMEOUT = out.JobError(
    code="timeout",
    message="the step ran longer than its timeout of 600 s and was stopped",
    details={
        "doing": "sampling",
        "signals": ["SIGTERM"],
        "reclaim_seconds": 0.104,
        "gpu_mem_used_before": 0,
        "peak_gpu_mem_used": 439394304,
        "gpu_mem_used_after": 0,
    },
)
_FAILED = _job(
    Status.FAILED,
    Reason.TIMEOUT,
    _step(Status.FAILED, Reason.TIMEOUT),
    _step(Status.CANCELLED, Reason.CANCELLED, second=True),
    error=_TIMEOUT,
)
_CANCELLED = _job(
    Status.CANCELLED,
    Reason.CANCELLED,
    _step(Status.CANCELLED, Reason.CANCELLED),
    error=out.JobError(code="cancelled", message="the job was cancelled on request", details={}),
    asked_to_stop=True,
)
_STOPPING = _job(Status.RUNNING, None, _step(Status.RUNNING, None), asked_to_stop=True)

QUEUE = out.QueueOut(position=3, exact=True, starts_in_s=out.SecondsOut(low=12, high=40))
_WAITING = _job(Status.QUEUED, None, _step(Status.QUEUED, None), queue=QUEUE)
JOBS = {"waiting": _WAITING, "running": _RUNNING, "succeeded": _SUCCEEDED, "failed": _FAILED}
CREATES = {"at once": CREATED, "after a wait": out.WaitedFor(job=_SUCCEEDED)}
CANCELS = {"it waited": _CANCELLED, "it runs": _STOPPING, "it had ended": _SUCCEEDED}
CURSOR = "AAYgzpNV4ABfDG86ahxKVZpDPz-aGnsQ"
PAGE = out.JobPage(jobs=[_RUNNING, _FAILED], next_cursor=CURSOR)

_KEY = f"dreamforge/default/jobs/{JOB}/upscale/1769860809500_0_1024x1024_{SEED}.png"
ARTIFACTS = out.Artifacts(
    artifacts=[
        out.ArtifactOut(
            id=str(ARTIFACT),
            step="upscale",
            item_index=0,
            format="png",
            width=1024,
            height=1024,
            seed=SEED,
            s3_key=_KEY,
            sha256=SHA256,
            size_bytes=1_482_113,
            created_at=after(9.5),
            url=f"http://127.0.0.1:8100/dreamforge/{_KEY}?X-Amz-Expires=3600&X-Amz-Signature=…",
            expires_at=after(3600),
        )
    ]
)

# Following ----------------------------------------------------------------------------------------

PROGRESS = out.ProgressOut(
    progress=0.4938,
    status=Status.RUNNING,
    stage="sampling",
    items=[
        out.ItemProgress(item_index=0, progress=1.0),
        out.ItemProgress(item_index=1, progress=0.4583),
    ],
    stages=[
        out.StageWeight(step="generate", name=name, weight=weight)
        for name, weight in (("queue", 0.0), *STAGES["generate"])
    ],
)


def _event(
    seq: int,
    code: Code,
    message: str,
    payload: dict[str, Any],
    *,
    level: str = "INFO",
    item_index: int | None = None,
    of_step: bool = True,
) -> Event:
    return Event(
        job_id=JOB,
        seq=seq,
        ts=after(seq),
        level=level,
        code=code,
        message=message,
        step_id=STEP if of_step else None,
        item_index=item_index,
        payload=payload,
    )


_AT_ITEM_1 = {
    "progress": 0.7562,
    "stage": "sampling",
    "item_index": 1,
    "item_progress": 0.4583,
    "step": 11,
    "steps": 20,
    "count": 2,
    "completed": 1,
}
_AT_THE_END = dict.fromkeys(_AT_ITEM_1) | {"progress": 0.7562, "count": 2, "completed": 1}
_STORED = {
    "step": "generate",
    "format": "png",
    "width": 512,
    "height": 512,
    "seed": SEED,
    "s3_key": f"dreamforge/default/jobs/{JOB}/generate/1769860808000_0_512x512_{SEED}.png",
    "sha256": SHA256,
}
# What a client gets that reconnects, of a job that exceeds its time limit at the second picture.
EVENTS = [
    _event(8, Code.ARTIFACT_WRITTEN, "item 0 stored", _STORED, item_index=0),
    _event(9, Code.PROGRESS, "76%", _AT_ITEM_1, level="DEBUG", item_index=1),
    _event(10, Code.SIGNAL_SENT, "SIGTERM to the runner", {"signal": "SIGTERM"}, level="WARNING"),
    _event(11, Code.ERROR, _TIMEOUT.message, _TIMEOUT.model_dump(), level="ERROR", of_step=False),
    _event(
        12,
        Code.JOB_FINISH,
        "job failed: timeout",
        {"status": "failed", "reason": "timeout"},
        level="ERROR",
        of_step=False,
    ),
    _event(13, Code.PROGRESS, "progress at the end", _AT_THE_END, of_step=False),
]

# Models -------------------------------------------------------------------------------------------

_FILES = (ModelFile(path="unet/diffusion_pytorch_model.safetensors", size_bytes=1, sha256=SHA256),)
_SIDES = Range(min=256, max=1024)
_DESCRIPTOR = ModelDescriptor(
    name="my-model",
    version="1",
    kind="sd",
    source=Source(uri="local"),
    files=_FILES,
    checkpoint_sha256=checkpoint_hash(_FILES),
    defaults=Defaults(width=512, height=512, steps=25, guidance=7.5),
    limits=Limits(width=_SIDES, height=_SIDES),
)
ONE_MODEL = out.ModelOut(
    id=str(MODEL),
    name=_DESCRIPTOR.name,
    kind=_DESCRIPTOR.kind,
    version=_DESCRIPTOR.version,
    installed=True,
    warm=[],
    enabled=True,
    checkpoint_sha256=_DESCRIPTOR.checkpoint_sha256,
    parameters_schema=parameters_schema(_DESCRIPTOR),
    capabilities=["generate"],
    family=None,
    scale=None,
    parts={"unet": PartSize(numbers=859_520_964, largest=29_491_200)},
)
MODELS = out.Models(
    models=[ONE_MODEL],
    data=[out.ListedModel(id="my-model@1", created=int(NOON.timestamp()))],
)

# Usage --------------------------------------------------------------------------------------------

USAGE = out.UsagePage(
    usage=[
        out.UsageOut(
            user="default",
            day=date(2026, 1, 31),
            model="my-model@1",
            jobs=out.EndedJobs(succeeded=41, failed=1, cancelled=2),
            pictures=85,
            run_seconds=512.25,
            device_byte_seconds=2_200_097_193_984.0,
            wait_seconds=96.5,
            tag=None,
        )
    ],
    next_cursor=None,
)

ACTIVITY = out.Activity(
    spans=[
        out.ActivitySpan(
            start=after(-300 * ago),
            jobs=out.EndedJobs(succeeded=4, failed=0, cancelled=0),
            pictures=8,
            wait_s=out.WaitSeconds(median=1.5, longest=12.25),
        )
        for ago in range(12, 0, -1)
    ],
    exact=True,
)

DEAD_LETTERS = out.DeadLetters(
    dead_letters=[
        out.DeadLetter(
            kind="job",
            id=str(JOB),
            since=NOON,
            user="default",
            reason="runner_crashed: the runner ended by signal 11",
            job_id=str(JOB),
            mine=True,
            replayable=True,
        ),
        out.DeadLetter(
            kind="webhook",
            id=f"msg_{JOB.hex}_12",
            since=NOON,
            user="default",
            reason="end to shop.example.org: it answered 500",
            job_id=str(JOB),
            mine=True,
            replayable=True,
        ),
    ],
    messages_shown=True,
)
REPLAYED = out.Replayed(id=str(JOB), job_id=str(JOB))

# Workers ------------------------------------------------------------------------------------------

WORKERS = out.Workers(
    workers=[
        out.WorkerOut(
            id=str(WORKER),
            host="render-1",
            version="0.2.0",
            started_at=NOON,
            heartbeat_at=after(9.5),
            queues=["default"],
            serves=out.ServesOut(priorities=[], users=[]),
            models=["my-model@1"],
            warm=["my-model@1"],
            slots=[
                out.WorkerSlot(
                    id="GPU-1f2e3d4c-0000-4000-8000-000000000000",
                    device="cuda",
                    device_class="NVIDIA GeForce RTX 3070",
                    state="held",
                    total_bytes=8_589_934_592,
                    free_bytes=3_221_225_472,
                    job_id=str(JOB),
                    mine=True,
                    holders={"4711": 5_368_709_120},
                )
            ],
        )
    ],
    queue=[
        out.WaitingOut(
            device="cuda", priority=Priority.NORMAL, user="default", waiting=3, exact=True
        )
    ],
)

# Probes -------------------------------------------------------------------------------------------

HEALTH = out.Health()
READY = {
    "ready": out.Ready().model_dump(exclude_none=True),
    "without its broker": out.Ready(degraded=["broker"]),
}
METRICS = (
    "# HELP dreamforge_sse_clients Open progress streams.\n"
    "# TYPE dreamforge_sse_clients gauge\n"
    "dreamforge_sse_clients 3.0\n"
)
