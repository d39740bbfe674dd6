"""Carries one claimed step from its slot to its verdict: the machine's effects, done for real.

Theory of operation
-------------------
One task (`run`) takes events from a queue, asks `lifecycle.advance` what they mean, and performs
the effects. An effect never waits: what takes time (a transaction, a spawn's READY, a tree that
ends, memory that comes back) runs in a task of its own and reports by posting an event. So a cancel
or a fence is acted upon at once, whatever else is under way, and the kill chain depends on neither
the database nor the runner.

Timers belong to the state that armed them. A timer that rang in the moment in which its state was
left is recognised by its generation and dropped.

The driver owns the runner, the reservation of the slot and the journal of its step. It gives all
three back: the runner when its tree is gone, the slot by proof or to quarantine, the journal with
the verdict.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from shared.claims import Claim, Stale, StepStore
from shared.errors import InfraUnavailable
from shared.events import Code
from shared.messages import (
    Artifact,
    Cancel,
    Failure,
    FromRunner,
    Go,
    Lease,
    Log,
    Progress,
    Ready,
    Result,
    RunSpec,
)
from shared.presets import presets
from shared.progress import StepProgress
from shared.settings import Settings
from shared.states import Reason, StepState
from supervisor.account import Account
from supervisor.channel import FrameError, Truncated
from supervisor.conversation import Conversation
from supervisor.devices import DeviceLost, DeviceProbe, Reading
from supervisor.ends import end_of
from supervisor.fence import Fence, boottime
from supervisor.journal import Journal
from supervisor.lifecycle import Effect, Event, IllegalEvent, Kind, Step, advance
from supervisor.metrics import Metrics
from supervisor.runner_process import LAST_FRAMES_S, RunnerProcess
from supervisor.runners import Runners
from supervisor.shortage import shortage
from supervisor.slots import Slot, SlotState
from supervisor.specs import Unreadable, run_spec
from supervisor.spool import Spool
from supervisor.tree import ProcessTree
from supervisor.uploads import ArtifactStore, Uploads
from supervisor.verify import Reclaimed, verify

log = logging.getLogger(__name__)

_SAMPLE_EVERY_S = 0.2  # DESIGN §6: the parent's own peak, five times a second
_RETRY_S = 0.5
_RUNNER_MAY_LIVE = (StepState.LEASED, StepState.RUNNING, StepState.STOPPING)

# A fact, and for a timer the generation that it was armed in.
_Posted = tuple[Event, int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What a worker lends to each of its steps."""

    settings: Settings
    store: StepStore
    objects: ArtifactStore
    probe: DeviceProbe
    runners: Runners
    spool: Spool
    metrics: Metrics
    model_folder: Callable[[Claim], str]
    slot_freed: Callable[[Slot], None]
    slot_dirty: Callable[[Slot, Reading | None, ProcessTree | None], None]


class StepDriver:
    """One claim. `run` returns when the verdict is written, or is no longer ours to write."""

    def __init__(self, claim: Claim, slot: Slot, host: Host, *, sent: float) -> None:
        """`sent` is the boot time at which the claim was sent: the lease counts from then."""
        settings = host.settings
        self.claim = claim
        self._slot = slot
        self._host = host
        self._step = Step(
            state=StepState.QUEUED,
            epoch=claim.epoch - 1,
            attempt=claim.attempt,
            losses=claim.losses,
            max_attempts=settings.max_attempts,
            max_losses=settings.max_losses,
        )
        self._fence = Fence(sent=sent, fence_s=settings.fence_s, deadman_s=settings.deadman_s)
        self._journal = Journal(claim, host.store, stale=lambda: self.post(Kind.LEASE_GONE))
        self._progress = StepProgress(claim.type, claim.count, done=set(claim.done_items))
        self._send_event, self._events = anyio.create_memory_object_stream[_Posted](math.inf)
        self._timer: anyio.CancelScope | None = None
        self._generation = 0
        self._spec: RunSpec | None = None
        self._runner: RunnerProcess | None = None
        self._listening = anyio.CancelScope()
        self._heard_all = anyio.Event()
        self._exit_told = anyio.Event()
        self._account = Account()
        self._vram_wait = False
        self._claimed_at = anyio.current_time()
        self._went_at: float | None = None

    # Events ---------------------------------------------------------------------------------------

    def post(self, kind: Kind, reason: Reason | None = None) -> None:
        """Report a fact. Never waits."""
        self._send_event.send_nowait((Event(kind, reason), None))

    def cancel(self) -> None:
        """Somebody asked for the step's end; asking again changes nothing."""
        if not self._step.cancel_requested:
            self.post(Kind.CANCEL)

    async def run(self) -> None:
        """Drive the step to its verdict. Cancelling this leaves a dirty slot: drain instead."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self._uploads = self._make_uploads(tasks)
            tasks.start_soon(self._journal.run)
            tasks.start_soon(self._keep_lease)
            tasks.start_soon(self._guard_fence)
            self._note_claimed()
            self._take(Event(Kind.CLAIMED))
            if self.claim.cancel_requested:
                self.post(Kind.CANCEL)
            async for event, generation in self._events:
                if generation in (None, self._generation) and self._take(event):
                    break
            await self._commit()
            tasks.cancel_scope.cancel()
        self._send_event.close()
        self._events.close()
        if self._runner is not None:
            self._runner.close()

    def _note_claimed(self) -> None:
        if self.claim.vram_waited_s:  # waiting for memory says so once, not every two seconds
            return
        self._journal.note(
            Code.STEP_CLAIMED,
            f"step {self.claim.name} claimed for {self._slot.id}",
            step=self.claim.name,
            slot=self._slot.id,
            epoch=self.claim.epoch,
        )

    def _take(self, event: Event) -> bool:
        """Advance the machine and perform what it says; True when only the commit is left."""
        before = self._step.state
        try:
            self._step, effects = advance(self._step, event)
        except IllegalEvent:
            # A bug of ours. The step must still end, so it is reported and dropped, not raised:
            # raising here would cancel the tasks that own a live runner.
            log.exception("illegal event", extra=self._journal.fields)
            return False
        if self._step.state is not before:
            self._drop_timer()
            self._entered(self._step.state)
        for effect in effects:
            if effect is Effect.COMMIT:
                return True
            self._perform(effect)
        return False

    def _entered(self, state: StepState) -> None:
        if state is StepState.STOPPING:
            self._tasks.start_soon(self._await_gone)
        elif state is StepState.RECLAIMING and self._went_at is not None:
            self._host.metrics.run_seconds.observe(anyio.current_time() - self._went_at)

    # Effects --------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        s = self._host.settings
        match effect:
            case Effect.CHECK_HEADROOM:
                self._tasks.start_soon(self._check_headroom)
            case Effect.SPAWN:
                self._spawn()
            case Effect.COMMIT_RUNNING:
                self._tasks.start_soon(self._commit_running)
            case Effect.GO:
                self._go()
            case Effect.RECORD:
                self._journal.state(self._step.state)
            case Effect.CANCEL_POLITELY:
                self._tell(Cancel())
            case Effect.TERMINATE:
                self._signal("SIGTERM")
            case Effect.KILL:
                self._signal("SIGKILL")
            case Effect.VERIFY:
                self._tasks.start_soon(self._verify)
            case Effect.FREE_SLOT:
                self._free_slot()
            case Effect.QUARANTINE_SLOT:
                self._quarantine_slot()
            case Effect.PUBLISH:
                self._tasks.start_soon(self._publish)
            case Effect.ARM_READY:
                self._arm(Kind.READY_TIMEOUT, s.ready_timeout_s)
            case Effect.ARM_TIMEOUT:
                self._arm(Kind.TIMEOUT, self.claim.timeout_s)
            case Effect.ARM_EXIT_GRACE:
                self._arm(Kind.EXIT_GRACE_OVER, s.exit_grace_s)
            case Effect.ARM_TERM_GRACE:
                self._arm(Kind.TERM_GRACE_OVER, s.term_grace_s)
            case Effect.ARM_KILL:
                self._arm(Kind.KILL_DEADLINE, s.kill_deadline_s)
            case Effect.ARM_RECLAIM:
                self._arm(Kind.RECLAIM_DEADLINE, s.reclaim_deadline_s)
            case Effect.ARM_PUBLISH:
                self._arm(Kind.PUBLISH_DEADLINE, s.publish_deadline_s)
            case Effect.RING | Effect.COMMIT:
                raise AssertionError(f"{effect} is not the driver's to perform here")

    def _spawn(self) -> None:
        assert self._spec is not None  # read before the headroom was looked at
        self._conversation = Conversation(
            self._spec.params, done_items=frozenset(self.claim.done_items)
        )
        try:
            self._runner = runner = self._host.runners.take(self._slot.device)
        except OSError as error:  # no process or no descriptor to be had, for now
            log.error("cannot start a runner: %s", error, extra=self._journal.fields)
            self.post(Kind.EXIT)
            return
        self._tasks.start_soon(self._listen, runner)
        self._tasks.start_soon(self._watch_exit, runner)
        self._tasks.start_soon(self._sample, runner)

    def _go(self) -> None:
        assert self._spec is not None
        self._conversation.go()
        self._went_at = anyio.current_time()
        self._host.metrics.start_seconds.observe(self._went_at - self._claimed_at)
        self._tell(Go(spec=self._spec, lease_s=self._fence.deadman_s))

    def _signal(self, name: str) -> None:
        """Record the intent, then send. The log line is written before the signal can act."""
        if self._runner is None:
            return
        self._journal.note(Code.SIGNAL_SENT, f"{name} to the runner", level="WARNING", signal=name)
        self._host.metrics.signals.labels(signal=name).inc()
        if name == "SIGTERM":
            self._runner.tree.terminate()
        else:
            self._runner.tree.kill()

    def _free_slot(self) -> None:
        self._slot.move(SlotState.FREE)
        self._host.slot_freed(self._slot)

    def _quarantine_slot(self) -> None:
        account = self._account
        tree = None if self._runner is None else self._runner.tree
        if tree is not None and (alive := tree.observe()):
            self._journal.note(
                Code.UNKILLABLE,
                f"{len(alive)} processes of the runner survived SIGKILL",
                level="ERROR",
                pids=alive,
            )
        self._journal.note(
            Code.GPU_NOT_RECLAIMED,
            f"slot {self._slot.id} is out of service: its memory was not proven back",
            level="ERROR",
            slot=self._slot.id,
            device_lost=account.device_lost,
            leaked_bytes=None if account.reclaimed is None else account.reclaimed.leaked_bytes,
            **account.figures(),
        )
        self._slot.move(SlotState.LOST if account.device_lost else SlotState.QUARANTINED)
        self._host.slot_dirty(self._slot, account.before, tree)

    def _tell(self, message: Go | Cancel | Lease) -> None:
        if self._runner is not None:
            self._tasks.start_soon(self._send, self._runner, message)

    async def _send(self, runner: RunnerProcess, message: Go | Cancel | Lease) -> None:
        try:
            await runner.channel.send(message.model_dump())
        except OSError as error:
            # It is gone, and its exit is the news; or it does not read, and a signal follows.
            log.info("could not tell the runner: %s", error, extra=self._journal.fields)

    # Timers ---------------------------------------------------------------------------------------

    def _arm(self, kind: Kind, seconds: float) -> None:
        self._drop_timer()
        self._timer = anyio.CancelScope()
        self._tasks.start_soon(self._ring, kind, seconds, self._timer, self._generation)

    def _drop_timer(self) -> None:
        self._generation += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _ring(
        self, kind: Kind, seconds: float, scope: anyio.CancelScope, generation: int
    ) -> None:
        with scope:
            await anyio.sleep(seconds)
            reason = self._account.judge().reason if kind is Kind.KILL_DEADLINE else None
            self._send_event.send_nowait((Event(kind, reason), generation))

    # What takes time ------------------------------------------------------------------------------

    async def _check_headroom(self) -> None:
        try:
            self._spec = run_spec(self.claim, model_folder=self._host.model_folder(self.claim))
        except Unreadable as error:
            self._account.know(unreadable=str(error))
            self.post(Kind.UNREADABLE)
            return
        try:
            self._account.before = now = await self._host.probe.read(self._slot.device, None)
        except DeviceLost as error:
            self._lose_device(error)
            self.post(Kind.DRAIN)  # not this step's fault: back to the queue, uncharged
            return
        if now.free_bytes >= self.claim.vram_bytes:
            self.post(Kind.HEADROOM)
        elif self.claim.vram_waited_s < self._host.settings.vram_wait_s:
            self._vram_wait = True
            self.post(Kind.VRAM_BUSY)
        else:
            self.post(Kind.VRAM_WAIT_OVER)

    async def _commit_running(self) -> None:
        device = self._slot.device
        try:
            self._account.before = before = await self._host.probe.read(device, None)
        except DeviceLost as error:
            self._lose_device(error)
            self.post(Kind.FAILURE)
            return
        await self._journal.flush()
        start = self._journal.event(
            Code.STEP_START,
            f"step {self.claim.name} starts on {device.id}",
            step=self.claim.name,
            attempt=self.claim.attempt + 1,
            slot=device.id,
            device=device.name,
            gpu_mem_used_before=before.used_bytes,
            gpu_mem_free=before.free_bytes,
            gpu_mem_total=before.total_bytes,
        )
        while True:
            try:
                await self._host.store.commit_running(self.claim, [start])
            except Stale:
                self.post(Kind.LEASE_GONE)
            except InfraUnavailable as error:
                log.warning("cannot start yet: %s", error.message, extra=self._journal.fields)
                await anyio.sleep(_RETRY_S)
                continue
            else:
                self.post(Kind.RUNNING_COMMITTED if self._fence.holds else Kind.LEASE_GONE)
            return

    async def _listen(self, runner: RunnerProcess) -> None:
        with self._listening:
            try:
                while (frame := await runner.channel.receive()) is not None:
                    await self._hear(self._conversation.accept(frame), frame.body)
            except Truncated as error:
                self._account.know(protocol_error=str(error))
            except FrameError as error:
                self._account.know(protocol_error=str(error))
                self.post(Kind.PROTOCOL_ERROR)
        self._heard_all.set()
        # An end is what a death looks like, and the exit status says more. Without a death it is
        # a runner from which nothing can come any more.
        with anyio.move_on_after(LAST_FRAMES_S) as stayed:
            await self._exit_told.wait()
        if stayed.cancelled_caught:
            self.post(Kind.PROTOCOL_ERROR)

    async def _hear(self, message: FromRunner, body: bytes) -> None:
        match message:
            case Ready():
                self.post(Kind.READY)
            case Progress():
                self._advance(message.stage, message.item_index, message.step, message.steps)
            case Log():
                self._journal.runner_log(
                    message.level,
                    message.code,
                    message.message,
                    message.item_index,
                    message.payload,
                )
            case Artifact():
                self._advance("upload", message.item_index, 0, 1)
                await self._uploads.add(message, body)
            case Result():
                self._account.saw_memory(message.allocator.get("allocator_peak_bytes", 0))
                self._account.know(result=True)
                self.post(Kind.RESULT)
            case Failure():
                self._account.know(failure=message)
                self.post(Kind.FAILURE)

    async def _watch_exit(self, runner: RunnerProcess) -> None:
        self._account.know(exitcode=await runner.exited())
        self._uploads.hurry()
        with anyio.move_on_after(LAST_FRAMES_S):
            await self._heard_all.wait()
        # A descendant may keep the other end open and talk on. It has nothing to say any more.
        self._listening.cancel()
        self.post(Kind.EXIT)
        self._exit_told.set()

    async def _await_gone(self) -> None:
        """Wait for the whole tree, then hand over the classification."""
        if self._runner is not None:
            await self._runner.gone()
            await self._exit_told.wait()
        self.post(Kind.TREE_GONE, self._account.judge().reason)

    async def _verify(self) -> None:
        """Report by the generation of `reclaiming`: after its deadline nobody wants to know."""
        generation = self._generation
        kind = await self._verified()
        self._send_event.send_nowait((Event(kind), generation))

    async def _verified(self) -> Kind:
        if self._runner is None:  # stopped before anything was started: nothing can be left
            return Kind.RECLAIM_DEADLINE if self._account.device_lost else Kind.VERIFIED
        assert self._account.before is not None  # the headroom was checked before the spawn
        try:
            reclaimed = await verify(
                self._host.probe,
                self._slot.device,
                before=self._account.before,
                tree=self._runner.tree,
                seen=self._saw_reclaim,
            )
        except DeviceLost as error:
            self._lose_device(error)
            return Kind.RECLAIM_DEADLINE
        self._host.metrics.reclaim_seconds.observe(reclaimed.seconds)
        self._journal.note(
            Code.GPU_RECLAIMED,
            f"memory of {self._slot.id} is back",
            level="DEBUG",
            seconds=round(reclaimed.seconds, 3),
            **self._account.figures(),
        )
        if reclaimed.foreign_growth_bytes:
            self._journal.note(
                Code.GPU_FOREIGN,
                f"other processes changed their use of {self._slot.id}",
                growth_bytes=reclaimed.foreign_growth_bytes,
            )
        return Kind.VERIFIED

    def _saw_reclaim(self, found: Reclaimed) -> None:
        self._account.reclaimed = found
        self._host.metrics.saw_leak(self._slot.device, found.leaked_bytes)

    async def _publish(self) -> None:
        await self._uploads.finished()
        self.post(Kind.PUBLISHED)

    async def _sample(self, runner: RunnerProcess) -> None:
        while self._step.state in _RUNNER_MAY_LIVE:
            try:
                now = await self._host.probe.read(self._slot.device, runner.tree)
            except DeviceLost as error:
                self._lose_device(error)
                self.post(Kind.FAILURE)
                return
            self._account.saw_memory(now.used_bytes)
            await anyio.sleep(_SAMPLE_EVERY_S)

    async def _keep_lease(self) -> None:
        """Renew until the step is over.

        Trying goes on past the fence: the runner is gone by then, but what it finished may still be
        published if the database comes back before anybody swept the step.
        """
        s = self._host.settings
        pause_s = s.lease_renew_s
        while True:
            await anyio.sleep(pause_s)
            pause_s, sent = _RETRY_S, boottime()
            try:
                with anyio.fail_after(s.lease_renew_s):
                    await self._host.store.renew(self.claim, s.lease_s)
            except Stale:
                self.post(Kind.LEASE_GONE)
                return
            except (InfraUnavailable, TimeoutError):
                log.warning("the lease could not be renewed", extra=self._journal.fields)
                continue
            pause_s = s.lease_renew_s
            self._fence.renewed(sent)
            if self._step.went:
                self._tell(Lease(lease_s=self._fence.deadman_s))

    async def _guard_fence(self) -> None:
        """End the runner in time for whoever may get the step next, whatever a renewal waits for.

        In short sleeps: the fence's clock runs while the machine is suspended, a sleep's does not.
        """
        while self._fence.holds:  # noqa: ASYNC110 - a clock, not an event
            await anyio.sleep(min(self._fence.left_s, _RETRY_S))
        if self._step.state in _RUNNER_MAY_LIVE:
            self.post(Kind.LEASE_GONE)

    # The end --------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Write the verdict, once. Silent when the step is somebody else's by now."""
        with anyio.move_on_after(self._host.settings.lease_s) as late:
            await self._write_verdict()
        if late.cancelled_caught:
            log.error("the verdict could not be written", extra=self._journal.fields)

    async def _write_verdict(self) -> None:
        end = end_of(
            self.claim,
            self._step,
            self._account.judge(),
            self._host.settings,
            figures=self._account.figures(),
            memory=shortage(
                self.claim,
                self._account.before,
                self._account.peak_bytes,
                presets(self._host.settings.presets_dir).values(),
            ),
            vram_wait=self._vram_wait,
            pending=await self._journal.take(),
        )
        while True:
            try:
                await self._host.store.finish(self.claim, end)
            except Stale:
                # Swept, or our own commit of a moment ago whose answer was lost. Both are final.
                log.info("the verdict is not ours to write", extra=self._journal.fields)
            except InfraUnavailable as error:
                log.warning("verdict waits: %s", error.message, extra=self._journal.fields)
                await anyio.sleep(_RETRY_S)
                continue
            else:
                self._count()
            return

    def _count(self) -> None:
        metrics = self._host.metrics
        if self._step.state is StepState.QUEUED:
            metrics.retries.labels(reason=self._step.last_reason or "vram_busy").inc()
        else:
            metrics.steps.labels(reason=self._step.reason).inc()
            if self._step.reason is Reason.ATTEMPTS_EXHAUSTED:
                metrics.dead_letters.labels(kind="job").inc()

    # Small things ---------------------------------------------------------------------------------

    def _lose_device(self, error: DeviceLost) -> None:
        log.error("device %s: %s", self._slot.id, error, extra=self._journal.fields)
        self._account.know(device_lost=True)

    def _advance(self, stage: str, item_index: int | None, step: int, steps: int) -> None:
        self._progress.advance(stage, item_index=item_index, fraction=step / steps)
        self._journal.progress(
            self._progress,
            stage=stage,
            item_index=item_index,
            item_progress=None if item_index is None else round(self._progress.item(item_index), 4),
            step=step,
            steps=steps,
        )

    def _stored(self, item_index: int) -> None:
        self._progress.stored(item_index)
        self._advance("upload", item_index, 1, 1)

    def _make_uploads(self, tasks: TaskGroup) -> Uploads:
        return Uploads(
            self.claim,
            store=self._host.store,
            objects=self._host.objects,
            spool=self._host.spool,
            fence=self._fence,
            journal=self._journal,
            tasks=tasks,
            stored=self._stored,
            stale=lambda: self.post(Kind.LEASE_GONE),
        )
