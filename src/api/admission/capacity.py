"""Admit: whether any live worker could run a planned job."""

from collections.abc import Sequence

from shared.db.insert_job import NewJob, NewStep
from shared.db.workers import Slot, Worker, slots_for
from shared.errors import InsufficientVram, ModelUnavailable


def check_capacity(job: NewJob, live: Sequence[Worker]) -> None:
    """Raise when workers are there and none could ever run a step: `ModelUnavailable` where none
    has its model, `InsufficientVram` where no slot of those that have it is large enough.

    Workers that are kept for others (`DF_SERVES`) do not count. With no worker at all the job
    waits: one that is about to start may well be able to run it.
    """
    live = [
        worker for worker in live if worker.serves.accepts(user=job.user, priority=job.priority)
    ]
    if not live:
        return
    for step in job.steps:
        able = [
            worker
            for worker in live
            if step.model_id is None or worker.has_model(step.model_id, step.checkpoint_sha256)
        ]
        if able and step.loras:
            able = [worker for worker in able if worker.models.keys() >= set(step.loras)]
            if not able:
                raise _no_worker_has_the_loras(step, live)
        if not able:
            raise _no_worker_has_the_model(step, live)
        slots = slots_for(able, device=step.device, queue=step.queue)
        largest_bytes = max((slot.capacity_bytes for slot in slots), default=0)
        if largest_bytes < step.vram_bytes:
            raise _too_small(step, able, slots, largest_bytes)


def _no_worker_has_the_model(step: NewStep, live: Sequence[Worker]) -> ModelUnavailable:
    return ModelUnavailable(
        f"no live worker has a verified copy of the model of step {step.name!r}. On a worker's "
        "host `dreamforge model import` or `download` brings one in, and `dreamforge model verify` "
        "says what is wrong with one that is there; workers look again every few seconds.",
        step=step.name,
        model_id=str(step.model_id),
        live_workers=len(live),
    )


def _no_worker_has_the_loras(step: NewStep, live: Sequence[Worker]) -> ModelUnavailable:
    return ModelUnavailable(
        f"no live worker has verified copies of the model of step {step.name!r} and of its LoRAs. "
        "On a worker's host `dreamforge model import` or `download` brings one in; workers look "
        "again every few seconds.",
        step=step.name,
        model_id=str(step.model_id),
        loras=[str(each) for each in step.loras or ()],
        live_workers=len(live),
    )


def _too_small(
    step: NewStep, able: Sequence[Worker], slots: Sequence[Slot], largest_bytes: int
) -> InsufficientVram:
    what_there_is = (
        f"the largest slot of any live worker that has its model has {largest_bytes}"
        if slots
        else "no live worker that has its model serves one"
    )
    return InsufficientVram(
        f"step {step.name!r} needs {step.vram_bytes} bytes on a {step.device} device "
        f"(preset {step.preset['name']!r}); {what_there_is}. Choose another preset or model, or "
        "add a worker.",
        step=step.name,
        preset=step.preset["name"],
        device=step.device,
        required_bytes=step.vram_bytes,
        largest_slot_bytes=largest_bytes,
        live_workers=len(able),
        slots=[
            {
                "class": slot.device_class,
                "state": slot.state,
                "total_bytes": slot.capacity_bytes,
                "free_bytes": slot.free_bytes,
                "holders": dict(slot.holders),
            }
            for slot in slots
        ],
    )
