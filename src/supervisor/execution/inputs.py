"""Sends the pictures that a step starts from to a runner, which has no credential to fetch them.

They are those of the step before, or what users sent.

The runner requests one at a time, so at most one is in memory here, and it counts against the byte
budget like one on its way out. The row says which object it is and what its hash must be: an object
that is not there, or is another one, is not sent. The store is waited for, but not for long: the
step holds a slot meanwhile, and returns it to wait in the queue.
"""

import hashlib
import logging
from contextlib import AsyncExitStack
from typing import Any

import anyio

from shared.protocol.messages import Cancel, Input
from shared.retry import backoff
from shared.step_store import PinnedInput, StepInput
from supervisor.execution.context import Execution
from supervisor.execution.runner_protocol import RunnerProtocol
from supervisor.lifecycle.step import EventKind
from supervisor.outcomes.classify import InputUnavailable
from supervisor.processes.child import ChildProcess

log = logging.getLogger(__name__)

FETCH_TIMEOUT_S = 60.0
RETRY_FIRST_S, RETRY_MOST_S = 0.5, 5.0


async def send_input(
    execution: Execution, runner: ChildProcess, protocol: RunnerProtocol, item_index: int
) -> None:
    """Send this item to the runner, or end the execution."""
    (stored,) = (image for image in execution.claim.inputs if image.item_index == item_index)
    async with AsyncExitStack() as budget:
        try:
            await _send(execution, runner, protocol, stored, budget)
        except OSError as error:
            # The runner is gone; its exit is reported elsewhere.
            log.info("could not send an input: %s", error, extra=execution.recorder.fields)


async def _send(
    execution: Execution,
    runner: ChildProcess,
    protocol: RunnerProtocol,
    stored: StepInput,
    budget: AsyncExitStack,
) -> None:
    try:
        body = await _fetch(execution, stored, budget)
    except InputUnavailable as error:
        # The execution ends here. The runner waits, and must learn that nothing will come.
        execution.evidence.facts.input_unavailable = error
        execution.post(EventKind.FAILURE)
        await runner.channel.send(Cancel().model_dump())
        return
    message = Input(item_index=stored.item_index, sha256=stored.sha256)
    await runner.channel.send(message.model_dump(), body)
    # Before any other wait: the runner may request the next one by now.
    protocol.input_sent()


async def _fetch(execution: Execution, stored: StepInput, budget: AsyncExitStack) -> bytes:
    """Its bytes, checked, counted in the byte budget until `budget` is closed."""
    worker = execution.worker
    # One byte more than it had: an object that replaced it is not read whole.
    limit = stored.size_bytes + 1
    with execution.evidence.waiting_for_store(), anyio.move_on_after(FETCH_TIMEOUT_S):
        # Room first. The store makes that, too: of pictures that it does not take.
        await budget.enter_async_context(worker.byte_budget.reserve(stored.size_bytes))
        body = await execution.retry(
            lambda: worker.objects.get(stored.s3_key, at_most_bytes=limit),
            backoff(first_s=RETRY_FIRST_S, most_s=RETRY_MOST_S),
            "input waits",
        )
        return _check_hash(stored, body)
    raise _unavailable(stored, f"the object store was away for {FETCH_TIMEOUT_S:g} s")


def _check_hash(stored: StepInput, body: bytes | None) -> bytes:
    if body is None:
        raise _unavailable(stored, "the object is gone from the store")
    sha256 = hashlib.sha256(body).hexdigest()
    if sha256 != stored.sha256:
        problem = "the store holds another object by its name"
        raise _unavailable(stored, problem, found_sha256=sha256)
    return body


def _unavailable(stored: StepInput, problem: str, **more: Any) -> InputUnavailable:
    name, ids = f"the input of item {stored.item_index}", {}
    if isinstance(stored, PinnedInput):
        name, ids = f"the input {stored.id} ({stored.role})", {"input_id": stored.id}
    return InputUnavailable(
        f"{name}: {problem}",
        item_index=stored.item_index,
        s3_key=stored.s3_key,
        sha256=stored.sha256,
        **ids,
        **more,
    )
