"""The worker's core: gives due steps to free slots, and runs what the worker does all the time.

Everything here runs on one thread's event loop, the supervisor thread, which lives as long as the
process: the kernel kills a spawned runner when the *thread* that started it ends, and a forked one
with the worker.

    claim loop     a free slot, then a claim; woken by a notification, a freed slot, or the poll
    executors      one per claimed step
    cancel watch   one statement a second for all owned steps
    maintenance    rescuer, gauges; `SlotReconciler` for unproven slots; a store that refuses
    previews       asked for where a client looks

A worker that gets SIGTERM drains: no new claim, and running steps get `drain_s` to finish. Then
they are stopped and go back to the queue uncharged. It ends when every executor has ended.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

import anyio
from anyio.abc import TaskGroup

from shared.errors import InfraUnavailable
from shared.linux.clock import boottime
from shared.states import DEFAULT_QUEUE
from shared.step_store import Claim, ClaimRequest
from shared.threads import is_lack_of_threads
from supervisor.execution.context import WorkerContext
from supervisor.execution.executor import StepExecutor
from supervisor.execution.run_spec import upcoming_model
from supervisor.lifecycle.step import EventKind
from supervisor.maintenance.rescuer import Rescuer
from supervisor.processes.child import kill_all_trees
from supervisor.slots.reconciler import SlotReconciler
from supervisor.slots.table import Slot, SlotState, SlotTable
from supervisor.templates.templates import TemplateStatus

log = logging.getLogger(__name__)


class Supervisor:
    """`run` until `drain` is called and every owned step has ended."""

    def __init__(
        self,
        worker_id: UUID,
        worker: WorkerContext,
        slots: SlotTable,
        *,
        survivors: Callable[[], list[int]],
    ) -> None:
        """`survivors` are processes of dead workers that SIGKILL did not end."""
        self.worker_id = worker_id
        self.slots = slots
        self._worker = worker
        self._timings = worker.timings
        self._metrics = worker.metrics
        for slot in slots:
            worker.metrics.init_device(slot.device)
        self.executors: set[StepExecutor] = set()
        # Boot time until which a claim may exist whose answer was lost.
        self.unacknowledged_until = 0.0
        # Claims whose executor failed, by step and epoch.
        self._abandoned: set[tuple[UUID, int]] = set()
        # Slots whose last claim was of a lower priority that had waited too long.
        self._served_overdue = set[str]()
        self._wakeup = anyio.Event()
        self._draining = anyio.Event()
        self._reconciler = SlotReconciler(
            slots,
            worker.timings,
            worker.probe,
            worker.metrics,
            survivors=survivors,
            on_free=self._on_free,
        )

    # From outside ---------------------------------------------------------------------------------

    def notify(self) -> None:
        """Look for work now. Only a hint: the claim decides."""
        self._metrics.notifications.inc()
        self._wakeup.set()

    def drain(self) -> None:
        """Stop claiming; `run` returns when every owned step has ended."""
        self._draining.set()
        self._wakeup.set()

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def templates(self) -> list[TemplateStatus]:
        """Every template of this worker."""
        return self._worker.runners.templates

    @property
    def warm_models(self) -> tuple[UUID, ...]:
        """Models that a step can begin with, without a load."""
        return self._worker.runners.warm_models

    async def run(self) -> None:
        """Serve until drained. Every slot is verified before the first claim.

        However it ends, none of its processes is left, so the caller may release the locks of the
        devices.
        """
        try:
            await self._serve()
        finally:
            await kill_all_trees()

    async def _serve(self) -> None:
        worker = self._worker
        rescuer = Rescuer(
            worker.store,
            worker.settings,
            worker.metrics,
            timings=worker.timings,
            tracer=worker.tracer,
        )
        async with anyio.create_task_group() as tasks:
            self._worker.runners.start(tasks, self._reserved_bytes)
            self._reconciler.start(tasks)
            tasks.start_soon(repeat_every, self._timings.cancel_watch_s, self._watch_cancels)
            tasks.start_soon(repeat_every, self._timings.rescue_every_s, rescuer.rescue)
            tasks.start_soon(repeat_every, self._timings.gauges_every_s, self._read_gauges)
            tasks.start_soon(repeat_every, self._timings.preview_every_s, self._ask_for_previews)
            tasks.start_soon(repeat_every, self._timings.store_look_s, worker.objects.look_again)
            async with anyio.create_task_group() as executors:
                await self._claim_until_drained(executors)
                executors.start_soon(self._stop_late_executors)
                while self.executors:
                    self._wakeup = anyio.Event()
                    await self._wakeup.wait()
                executors.cancel_scope.cancel()
            await self._worker.runners.close()
            tasks.cancel_scope.cancel()

    # Claiming -------------------------------------------------------------------------------------

    async def _claim_until_drained(self, executors: TaskGroup) -> None:
        while not self.draining:
            self._wakeup = anyio.Event()
            if not await self._claim_one(executors):
                # Jitter keeps the polls of many workers from coinciding.
                pause_s = self._timings.poll_s * random.uniform(0.8, 1.2)  # noqa: S311
                with anyio.move_on_after(pause_s):
                    await self._wakeup.wait()

    async def _claim_one(self, executors: TaskGroup) -> bool:
        """Claim a step for some free slot; False when there is no slot, no work, or no database.

        Every kind of free slot is tried: a step for a GPU must not wait behind a CPU slot that it
        does not fit.
        """
        await self._release_unacknowledged()
        models = self._worker.models()
        if self._worker.byte_budget.full or self._worker.objects.refuses:
            return False
        for slot in self.slots.free_by_kind():
            slot.move(SlotState.HELD)
            sent = boottime()
            claim = await self._claim_for(slot, models)
            if claim is None:
                slot.move(SlotState.FREE)
                continue
            slot.job_id = claim.job_id
            self._alternate(slot, overdue=claim.overdue)
            self._metrics.record_claim(queued_s=claim.queued_s, again=claim.vram_waited_s > 0)
            self._worker.runners.expect_nothing(slot.device)
            executor = StepExecutor(
                claim,
                slot,
                self._worker,
                self._reconciler,
                sent=sent,
                on_go=partial(executors.start_soon, self._look_ahead, slot, models),
            )
            self.executors.add(executor)
            executors.start_soon(self._run_executor, executor)
            return True
        return False

    def _reserved_bytes(self) -> int:
        """Host memory that belongs to the steps that run on the CPU, also what they have not taken
        yet."""
        return sum(
            executor.claim.vram_bytes
            for executor in self.executors
            if executor.execution.runner_may_live and executor.execution.slot.device.kind == "cpu"
        )

    async def _look_ahead(self, slot: Slot, models: tuple[UUID, ...]) -> None:
        """Prepare, while the slot is busy, for the step that it would take next.

        Only once the runner works: before, it would wait for what this needs of the database and of
        the CPU.
        """
        if self.draining:
            return
        runners = self._worker.runners
        try:
            upcoming = await self._worker.store.due_next(self._request(slot, models), limit=1)
        except InfraUnavailable as error:
            log.info("cannot look ahead: %s", error.message)
            return
        for step in upcoming:
            runners.expect(slot.device, upcoming_model(step, self._worker.model_folder))
        runners.prewarm_due(slot.device)

    def _request(self, slot: Slot, models: tuple[UUID, ...]) -> ClaimRequest:
        settings = self._worker.settings
        return ClaimRequest(
            worker_id=self.worker_id,
            slot=slot.id,
            queues=(DEFAULT_QUEUE,),
            device=slot.device.kind,
            capacity_bytes=slot.device.capacity_bytes,
            models=models,
            lease_s=self._timings.lease_s,
            priorities=settings.serves.priorities,
            users=settings.serves.users,
            max_passed_s=settings.max_passed_s,
            overdue=slot.id not in self._served_overdue,
            warm=self._worker.runners.warm_models,
        )

    async def _claim_for(self, slot: Slot, models: tuple[UUID, ...]) -> Claim | None:
        try:
            return await self._worker.store.claim(self._request(slot, models))
        except InfraUnavailable as error:
            # The claim may be committed all the same, now or in a moment.
            self.unacknowledged_until = boottime() + self._timings.lease_s
            log.warning("cannot claim: %s", error)
            return None

    def _alternate(self, slot: Slot, *, overdue: bool) -> None:
        """Overdue steps get every other claim of a slot at most: see `shared.db.claim`."""
        if overdue:
            self._served_overdue.add(slot.id)
        else:
            self._served_overdue.discard(slot.id)

    async def _release_unacknowledged(self) -> None:
        """Put back claims whose answer was lost: they have no executor, and block their step."""
        if boottime() > self.unacknowledged_until:
            return
        known = self._abandoned | {_claimed(executor) for executor in self.executors}
        try:
            count = await self._worker.store.release_unacknowledged(self.worker_id, known)
        except InfraUnavailable:
            return  # the claim that follows says so
        if count:
            log.warning("put %d step(s) back whose claim was not answered", count)

    async def _run_executor(self, executor: StepExecutor) -> None:
        try:
            await executor.run()
        except Exception:
            # One failed executor must not end the others. Its slot is proven before the next use,
            # and the rescuer takes the step when its lease ends.
            log.exception("the executor of the step failed", extra=executor.fields)
            self._abandoned.add(_claimed(executor))
            executor.abandon()
        finally:
            # Not by step: a step that went back to the queue may have a new executor already.
            self.executors.remove(executor)
            if not self._awaits_verdict(executor.execution.slot):
                self._prepare(executor.execution.slot)
            self._wakeup.set()

    # Slots ----------------------------------------------------------------------------------------

    def _on_free(self, slot: Slot) -> None:
        """A slot may take work.

        Where no step is due, the claim and the runner that will wait come after the verdict of the
        step that has just left the slot: a client waits for that verdict, on the same cores.
        """
        if self._worker.runners.is_due(slot.device) or not self._awaits_verdict(slot):
            self._prepare(slot)

    def _awaits_verdict(self, slot: Slot) -> bool:
        return any(executor.execution.slot is slot for executor in self.executors)

    def _prepare(self, slot: Slot) -> None:
        # Held without an executor: a claim is under way, and may find nothing.
        if slot.state in (SlotState.FREE, SlotState.HELD) and not self.draining:
            self._worker.runners.prewarm(slot.device)
        self._wakeup.set()

    # Maintenance ----------------------------------------------------------------------------------

    async def _watch_cancels(self) -> None:
        if self.executors:
            cancelled = await self._worker.store.requested_cancels(self.worker_id)
            for executor in self.executors:
                if executor.claim.step_id in cancelled:
                    executor.cancel()

    async def _ask_for_previews(self) -> None:
        """Of the steps that a client looks at, twice a second at most."""
        if (previews := self._worker.previews) is None or not self.executors:
            return
        watched = await previews.watched({executor.claim.job_id for executor in self.executors})
        for executor in self.executors:
            if executor.claim.job_id in watched:
                executor.ask_preview()

    async def _stop_late_executors(self) -> None:
        await anyio.sleep(self._worker.settings.drain_s)
        for executor in self.executors:
            log.warning("drain time is over: stopping the step", extra=executor.fields)
            executor.post(EventKind.DRAIN)

    async def _read_gauges(self) -> None:
        self._metrics.spool_bytes.set(self._worker.byte_budget.used_bytes)
        await self._reconciler.read_gauges()


def _claimed(executor: StepExecutor) -> tuple[UUID, int]:
    return executor.claim.step_id, executor.claim.epoch


async def repeat_every(seconds: float, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` again and again.

    A service that is away, or a host that is short of a resource, is logged and tried again next
    time: neither must end the steps that run.
    """
    name = getattr(work, "__name__", "periodic work")  # a partial has none
    while True:
        try:
            await work()
        except InfraUnavailable as error:
            log.warning("%s: %s", name, error)
        except OSError as error:
            log.error("%s: %s", name, error)
        except RuntimeError as error:  # what Python raises where the host is out of processes
            if not is_lack_of_threads(error):
                raise
            log.error("%s: %s", name, error)
        await anyio.sleep(seconds)
