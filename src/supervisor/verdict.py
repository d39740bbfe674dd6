"""Writes down how a try ended, once, and counts it. Silent when the step is somebody else's."""

from __future__ import annotations

import logging
from typing import Any

import anyio

from shared.claims import End, Stale
from shared.errors import InfraUnavailable
from shared.presets import presets
from shared.states import Reason, StepState
from supervisor.ends import end_of
from supervisor.host import Try
from supervisor.lifecycle import Step
from supervisor.shortage import shortage

log = logging.getLogger(__name__)

_RETRY_S = 0.5


async def write_verdict(owned: Try, step: Step, *, vram_wait: bool) -> None:
    """Commit the end of `step`; give up when its lease has long been somebody else's to sweep."""
    with anyio.move_on_after(owned.host.settings.lease_s) as late:
        await _until_written(owned, step, await _end(owned, step, vram_wait=vram_wait))
    if late.cancelled_caught:
        log.error("the verdict could not be written", extra=owned.journal.fields)


async def _end(owned: Try, step: Step, *, vram_wait: bool) -> End:
    account, settings = owned.account, owned.host.settings

    def memory() -> dict[str, Any]:
        known = presets(settings.presets_dir).values()
        return shortage(owned.claim, account.before, account.peak_bytes, known)

    return end_of(
        owned.claim,
        step,
        account.judge(),
        settings,
        figures=account.figures(),
        memory=memory,
        vram_wait=vram_wait,
        pending=await owned.journal.take(),
    )


async def _until_written(owned: Try, step: Step, end: End) -> None:
    while True:
        try:
            following = await owned.host.store.finish(owned.claim, end)
        except Stale:
            log.info("the verdict is not ours to write", extra=owned.journal.fields)
        except InfraUnavailable as error:
            log.warning("verdict waits: %s", error.message, extra=owned.journal.fields)
            await anyio.sleep(_RETRY_S)
            continue
        else:
            _count(owned, step, cancelled=end.state is StepState.QUEUED and following is None)
        return


def _count(owned: Try, step: Step, *, cancelled: bool) -> None:
    """`cancelled`: it was to be tried again, and somebody asked for its end in between."""
    metrics, figures = owned.host.metrics, owned.account.figures()
    metrics.step_ended(
        owned.slot.device,
        before=figures["gpu_mem_used_before"],
        peak=figures["peak_gpu_mem_used"],
        after=figures["gpu_mem_used_after"],
    )
    if cancelled:
        metrics.steps.labels(reason=Reason.CANCELLED).inc()
    elif step.state is StepState.QUEUED:
        metrics.retries.labels(reason=step.last_reason or "vram_busy").inc()
    else:
        metrics.steps.labels(reason=step.reason).inc()
        if step.reason is Reason.ATTEMPTS_EXHAUSTED:
            metrics.dead_letters.labels(kind="job").inc()
