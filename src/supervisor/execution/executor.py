"""Carries one claimed step from its slot to its verdict: it performs the machine's effects.

Theory of operation
-------------------
One task (`run`) takes events from a queue, asks `lifecycle.machine.advance` what they mean, and
performs the effects. An effect never waits: what takes time (a transaction, a spawn's READY, a tree
that ends, memory that comes back) runs in a task of its own and posts an event when it is done. So
a cancel or a fence takes effect at once, whatever else is under way, and the kill chain depends on
neither the database nor the runner.

A timer belongs to the state that armed it. One that outlives its state is recognised by its
generation and dropped.

The executor owns the runner, the reservation of the slot and the event recorder of its step. It
gives all three back: the runner when its tree is gone, the slot by proof or to quarantine, the
recorder with the verdict. `runner_events` listens to the runner, `device_monitor` reads the device,
`lease` holds the lease and `completer` writes the end. They share one `Execution` and report; only
this file decides.
"""

import logging
from collections.abc import Callable
from functools import partial

import anyio
from anyio.abc import TaskGroup

from shared.events import Code
from shared.protocol.messages import Cancel, Go, Lease, Show
from shared.states import StepState
from shared.step_store import AttemptResult, Claim, claim_events
from shared.timings import Timings
from supervisor.execution.completer import write_verdict
from supervisor.execution.context import Execution, WorkerContext
from supervisor.execution.device_monitor import DeviceMonitor
from supervisor.execution.lease import guard_fence, renew_lease
from supervisor.execution.run_spec import UnreadableStep, run_spec, wanted_model
from supervisor.execution.runner_events import RunnerListener
from supervisor.execution.runner_protocol import RunnerProtocol
from supervisor.execution.spans import trace_execution
from supervisor.execution.start import commit_running
from supervisor.execution.uploader import Uploader
from supervisor.lifecycle.machine import advance
from supervisor.lifecycle.step import Effect, Event, EventKind, IllegalEvent
from supervisor.metrics import labels
from supervisor.processes.child import ChildProcess, kill
from supervisor.recording.event_recorder import log_events
from supervisor.slots.reconciler import SlotReconciler
from supervisor.slots.table import Slot

log = logging.getLogger(__name__)


def _timers(timings: Timings, timeout_s: float) -> dict[Effect, tuple[EventKind, float]]:
    """What each timer reports, and after how many seconds."""
    return {
        Effect.ARM_READY: (EventKind.READY_TIMEOUT, timings.ready_timeout_s),
        # As long as a verdict is offered. The fence is no bound while renewals get through.
        Effect.ARM_START: (EventKind.START_TIMEOUT, timings.lease_s),
        Effect.ARM_TIMEOUT: (EventKind.TIMEOUT, timeout_s),
        Effect.ARM_EXIT_GRACE: (EventKind.EXIT_GRACE_OVER, timings.exit_grace_s),
        Effect.ARM_TERM_GRACE: (EventKind.TERM_GRACE_OVER, timings.term_grace_s),
        Effect.ARM_KILL: (EventKind.KILL_DEADLINE, timings.kill_deadline_s),
        Effect.ARM_RECLAIM: (EventKind.RECLAIM_DEADLINE, timings.reclaim_deadline_s),
        Effect.ARM_PUBLISH: (EventKind.PUBLISH_DEADLINE, timings.publish_deadline_s),
    }


class StepExecutor:
    """One claim. `run` returns when the verdict is written, or is no longer ours to write."""

    def __init__(
        self,
        claim: Claim,
        slot: Slot,
        worker: WorkerContext,
        reconciler: SlotReconciler,
        *,
        sent: float,
        on_go: Callable[[], object],
    ) -> None:
        """`sent` is the boot time at which the claim was sent: the lease counts from then. `on_go`
        is called when GO has been sent."""
        self.claim = claim
        self._slot = slot
        self._worker = worker
        self._on_go = on_go
        self.execution = execution = Execution(claim, slot, worker, sent=sent)
        self._evidence = execution.evidence
        self._recorder = execution.recorder
        self._device = DeviceMonitor(execution, reconciler)
        self._timers = _timers(worker.timings, claim.timeout_s)
        self._generation = 0
        self._protocol: RunnerProtocol | None = None  # once the step could be read
        self._runner: ChildProcess | None = None
        self._starting = anyio.CancelScope()  # of what waits for a runner
        self._started: anyio.Event | None = None  # set once there is a runner, or will be none
        self._listener: RunnerListener | None = None
        self._claimed_at = anyio.current_time()
        self._go_sent_at: float | None = None

    @property
    def fields(self) -> dict[str, str]:
        """What a log line about this step must name."""
        return self._recorder.fields

    def post(self, kind: EventKind) -> None:
        """Report a fact. Never waits."""
        self.execution.post(kind)

    def ask_preview(self) -> None:
        """Have the runner show what it samples, unless it has been asked already."""
        if self._protocol is not None and self._protocol.ask_preview():
            self._start_send(Show())

    def cancel(self) -> None:
        """End the step on request; a second request changes nothing."""
        if not self.execution.step.cancel_requested:
            self.post(EventKind.CANCEL)

    async def run(self) -> None:
        """Run the step to its verdict. Cancelling this leaves an unclean slot: drain instead."""
        result = None
        try:
            async with anyio.create_task_group() as tasks:
                result = await self._execute(tasks)
                tasks.cancel_scope.cancel()
        finally:
            self.execution.close()
            if self._runner is not None:
                self._runner.close()
            trace_execution(self.execution, result)

    async def _execute(self, tasks: TaskGroup) -> AttemptResult | None:
        execution = self.execution
        self._tasks = tasks
        self._uploader = Uploader(execution, tasks)
        tasks.start_soon(self._recorder.run)
        tasks.start_soon(partial(renew_lease, execution, on_renewed=self._send_lease))
        tasks.start_soon(guard_fence, execution)
        log_events(claim_events(self.claim, self._slot.id), self._recorder.fields)
        self._handle(Event(EventKind.CLAIMED))
        if self.claim.cancel_requested:
            self.post(EventKind.CANCEL)
        async for event, generation in execution.events:
            if generation in (None, self._generation) and self._handle(event):
                break
        return await write_verdict(execution)

    def abandon(self) -> None:
        """`run` failed: end the runner, and hand the slot over to be proven clean."""
        self._worker.metrics.executor_failures.labels(**labels(self._slot.device)).inc()
        if self.execution.tree is not None:
            kill(self.execution.tree)
        self._device.abandon_slot()

    def _handle(self, event: Event) -> bool:
        """Advance the machine and perform the effects; True when only the commit is left."""
        execution = self.execution
        before = execution.step.state
        try:
            execution.step, effects = advance(execution.step, event)
        except IllegalEvent:
            # A bug of ours. The step must still end, so the event is logged and dropped, not
            # raised: raising here would cancel the tasks that own a live runner.
            log.exception("illegal event", extra=self._recorder.fields)
            return False
        execution.timeline.record_event(event.kind, execution.step.state)
        if execution.step.state is not before:
            self._generation += 1
            if before is StepState.RECLAIMING:
                self._device.stop_verifying()
            self._on_state_entered(execution.step.state)
        for effect in effects:
            if effect is Effect.COMMIT:
                return True
            self._perform(effect)
        return False

    def _on_state_entered(self, state: StepState) -> None:
        if state is StepState.STOPPING:
            self._starting.cancel()
            self._tasks.start_soon(self._await_gone)
        elif state is StepState.RECLAIMING and self._go_sent_at is not None:
            self._worker.metrics.run_seconds.observe(anyio.current_time() - self._go_sent_at)

    # Effects --------------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Effect.CHECK_HEADROOM:
                self._tasks.start_soon(self._check_headroom)
            case Effect.SPAWN:
                self._tasks.start_soon(self._start_runner)
            case Effect.COMMIT_RUNNING:
                self._tasks.start_soon(self._commit_running)
            case Effect.GO:
                self._send_go()
            case Effect.RECORD:
                self._recorder.record_state(self.execution.step.state)
            case Effect.CANCEL_POLITELY:
                self._send_cancel()
            case Effect.TERMINATE:
                self._signal("SIGTERM")
            case Effect.KILL:
                self._signal("SIGKILL")
            case Effect.VERIFY:
                self._tasks.start_soon(self._verify)
            case Effect.FREE_SLOT:
                self._device.free_slot()
            case Effect.QUARANTINE_SLOT:
                self._device.quarantine_slot()
            case Effect.PUBLISH:
                self._tasks.start_soon(self._publish)
            case _:  # a timer
                self._arm_timer(*self._timers[effect])

    async def _start_runner(self) -> None:
        self._started = anyio.Event()
        try:
            with self._starting:
                runners = self._worker.runners
                self._adopt(
                    await runners.acquire(
                        self._slot.device,
                        self.execution.model,
                        need_bytes=self.claim.vram_bytes,
                    )
                )
        except OSError as error:  # the host has no process or descriptor left, for now
            log.error("cannot start a runner: %s", error, extra=self._recorder.fields)
            self.post(EventKind.EXIT)
        finally:
            self._started.set()

    def _adopt(self, runner: ChildProcess) -> None:
        assert self._protocol is not None  # the step was read before the headroom was checked
        self._runner = runner
        if self.execution.step.state is not StepState.LEASED:
            kill(runner.tree)  # the signals of its stop were sent before there was a runner
        runner.output.fields = self._recorder.fields
        self.execution.tree = runner.tree
        self._evidence.group = runner.tree.group
        self._listener = listener = RunnerListener(
            self.execution, runner, self._protocol, self._uploader, self._tasks
        )
        self._tasks.start_soon(listener.read_frames)
        self._tasks.start_soon(listener.wait_exit)
        self._tasks.start_soon(self._device.sample_peak)

    def _send_go(self) -> None:
        assert self._protocol is not None
        self._protocol.go_sent()
        self._go_sent_at = anyio.current_time()
        self._worker.metrics.start_seconds.observe(self._go_sent_at - self._claimed_at)
        self._start_send(Go(spec=self._protocol.spec, dies_at=self.execution.fence.dies_at))
        self._on_go()

    def _send_lease(self) -> None:
        if self.execution.step.go_sent:
            self._start_send(Lease(dies_at=self.execution.fence.dies_at))

    def _send_cancel(self) -> None:
        """Send it before the signal that follows in the same moment, if the pipe has room."""
        if self._runner is None:
            return
        try:
            if self._runner.channel.send_now(Cancel().model_dump()):
                return
        except OSError as error:
            log.info("could not tell the runner: %s", error, extra=self._recorder.fields)
            return
        self._start_send(Cancel())

    def _start_send(self, message: Go | Cancel | Lease | Show) -> None:
        if self._runner is not None:
            self._tasks.start_soon(self._send, self._runner, message)

    async def _send(self, runner: ChildProcess, message: Go | Cancel | Lease | Show) -> None:
        try:
            await runner.channel.send(message.model_dump())
        except OSError as error:
            # It is gone, and its exit is reported; or it does not read, and a signal follows.
            log.info("could not tell the runner: %s", error, extra=self._recorder.fields)

    def _signal(self, name: str) -> None:
        """Record the signal, then send it. The log line is written before the signal can act."""
        if self._runner is None:
            return
        message = f"{name} to the runner"
        self._recorder.record(Code.SIGNAL_SENT, message, level="WARNING", signal=name)
        self._evidence.record_signal(name)
        self._worker.metrics.record_signal(self._slot.device, name)
        if name == "SIGTERM":
            self._runner.tree.terminate()
        else:
            self._runner.tree.kill()

    # Timers ---------------------------------------------------------------------------------------

    def _arm_timer(self, kind: EventKind, seconds: float) -> None:
        self._generation += 1  # an earlier timer of this state is void
        self._tasks.start_soon(self._fire_timer, kind, seconds, self._generation)

    async def _fire_timer(self, kind: EventKind, seconds: float, generation: int) -> None:
        await anyio.sleep(seconds)
        if generation != self._generation:
            return
        reason = None
        if kind is EventKind.TIMEOUT and not await self._evidence.is_time_over():
            kind = EventKind.STORE_AWAY
        elif kind is EventKind.KILL_DEADLINE:
            reason = self._evidence.classify().reason
        self.execution.post(kind, reason, generation=generation)

    # What takes time ------------------------------------------------------------------------------

    async def _check_headroom(self) -> None:
        try:
            spec = run_spec(self.claim, self._worker.model_folder)
        except UnreadableStep as error:
            self._evidence.facts.unreadable = str(error)
            self.post(EventKind.UNREADABLE)
            return
        self._protocol = RunnerProtocol(spec)
        self.execution.model = wanted_model(spec, self.claim.model)
        self.post(await self._device.check_headroom())

    async def _commit_running(self) -> None:
        kind = await commit_running(self.execution, self._device)
        if kind is not None:
            self.post(kind)

    async def _await_gone(self) -> None:
        """Wait for the whole tree, then report it with the classification."""
        if self._started is not None:
            await self._started.wait()
        if self._listener is not None:
            await self._listener.wait_gone()
            if not self._evidence.explained:
                await self._device.check_answers()
        self.execution.post(EventKind.TREE_GONE, self._evidence.classify().reason)

    async def _verify(self) -> None:
        """Report by the generation of `reclaiming`: after its deadline the result is void."""
        generation = self._generation
        kind = await self._device.verify()
        if kind is not None:
            self.execution.post(kind, generation=generation)

    async def _publish(self) -> None:
        await self._uploader.wait_finished()
        self.post(EventKind.PUBLISHED)
