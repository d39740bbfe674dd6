"""In-memory twin of `shared.db.step_store.PostgresStepStore`, for tests of the supervisor.

It answers as the real one does; `tests/integration/data/test_store_conformance.py` runs one suite
against both. Every call is atomic: nothing in here waits between its first look and its last write.
Time is `now()`, seconds of a clock that a test may push forward.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID, uuid4

from tests.support.claim_order import Share, base, next_steps
from tests.support.faults import Faults

from shared.events import Code, NewEvent
from shared.states import OWNED, TERMINAL, Priority, Reason, Status, StepState
from shared.step_store import (
    CANCELLED_ERROR,
    AttemptResult,
    CancelRequested,
    Claim,
    ClaimRequest,
    Decide,
    OrphanedStep,
    PinnedModel,
    Rescue,
    Stale,
    StoredArtifact,
    UpcomingStep,
    claim_events,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a step asks for. The defaults fit any CPU slot."""

    params: dict[str, Any] = field(default_factory=dict)
    preset: dict[str, Any] = field(default_factory=dict)
    name: str = "generate"
    type: str = "generate"
    queue: str = "default"
    device: str = "cpu"
    vram_bytes: int = 0
    timeout_s: float = 60.0
    needs_model: bool = True
    model_id: UUID | None = None  # another one than the store's
    model: PinnedModel | None = None  # instead of one that exists in name only
    loras: tuple[UUID, ...] | None = None
    # Facts of the job; those of its first step count.
    user: str = "default"
    priority: Priority = Priority.NORMAL
    weight: float = 1.0


@dataclass(kw_only=True, slots=True)
class StoredStep:
    id: UUID
    job_id: UUID
    position: int
    work: Work
    model_id: UUID | None
    user: str
    priority: Priority
    weight: float
    state: StepState
    created_at: float
    run_at: float
    passed: int = 0
    claimed_at: float = 0.0
    virtual_s: float = 0.0  # its user's, at the claim
    reason: Reason | None = None
    error: dict[str, Any] | None = None
    attempt: int = 0
    losses: int = 0
    epoch: int = 0
    lease_owner: UUID | None = None
    lease_expires_at: float | None = None
    vram_wait_since: float | None = None
    cancel_requested: bool = False
    # Every state that was ever stored, in order.
    history: list[StepState] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class StoredJob:
    id: UUID
    count: int
    status: Status = Status.QUEUED
    reason: Reason | None = None
    error: dict[str, Any] | None = None
    cancel_requested: bool = False
    traceparent: str | None = None
    events: list[NewEvent] = field(default_factory=list)
    artifacts: dict[tuple[UUID, int], StoredArtifact] = field(default_factory=dict)


class MemoryStepStore:
    """`StepStore` without a database. Faults are named after the methods."""

    def __init__(self, model_id: UUID | None = None) -> None:
        self.model_id = model_id or uuid4()
        self.faults = Faults("PostgreSQL")
        self.jobs: dict[UUID, StoredJob] = {}
        self.steps: dict[UUID, StoredStep] = {}
        self.shares: dict[tuple[str, str], Share] = {}  # by user and device
        self._ahead_s = 0.0

    # For tests ------------------------------------------------------------------------------------

    def now(self) -> float:
        return time.monotonic() + self._ahead_s

    def pass_time(self, seconds: float) -> None:
        """Push the server's clock forward."""
        self._ahead_s += seconds

    def create(self, *works: Work, count: int = 1) -> UUID:
        """Accept a job whose steps run in this order; return its id."""
        job, now = StoredJob(id=uuid4(), count=count), self.now()
        self.jobs[job.id] = job
        for position, work in enumerate(works):
            step = StoredStep(
                id=uuid4(),
                job_id=job.id,
                position=position,
                work=work,
                model_id=self._model_id(work),
                user=works[0].user,
                priority=works[0].priority,
                weight=works[0].weight,
                state=StepState.PENDING if position else StepState.QUEUED,
                created_at=now,
                run_at=now,
            )
            step.history.append(step.state)
            self.steps[step.id] = step
        _append(job, [NewEvent(code=Code.JOB_CREATED, message="accepted")])
        return job.id

    def _model_id(self, work: Work) -> UUID | None:
        if work.model is not None:
            return work.model.id
        return (work.model_id or self.model_id) if work.needs_model else None

    @property
    def model_ids(self) -> tuple[UUID, ...]:
        """Every model of a step that was ever created."""
        return (self.model_id, *{step.model_id for step in self.steps.values() if step.model_id})

    def steps_of(self, job_id: UUID) -> list[StoredStep]:
        found = [step for step in self.steps.values() if step.job_id == job_id]
        return sorted(found, key=lambda step: step.position)

    def request_cancel(self, job_id: UUID) -> None:
        """What `DELETE /v1/jobs/{id}` does: ends what waits, asks the owner of what runs."""
        job = self.jobs[job_id]
        if job.reason is not None:
            return
        job.cancel_requested = True
        for step in self.steps_of(job_id):
            if step.state in OWNED:
                step.cancel_requested = True
            elif step.state not in TERMINAL:
                self._cancel_step(step)
        if not any(step.state in OWNED for step in self.steps_of(job_id)):
            _finish(job, Status.CANCELLED, Reason.CANCELLED, CANCELLED_ERROR)

    def steal(self, step_id: UUID) -> None:
        """Another worker owns the step from now on: every claim of it is stale."""
        step = self.steps[step_id]
        step.epoch += 1
        step.lease_owner, step.lease_expires_at = uuid4(), self.now() + 3600

    # StepStore ------------------------------------------------------------------------------------

    async def claim(self, request: ClaimRequest) -> Claim | None:
        await self.faults.before("claim")
        claim = None
        if due := [step for step in self.steps.values() if self._is_due(step, request)]:
            virtual_s, overdue = self._virtual_s(due, request.device), self._overdue(request)
            (step, *older), late = next_steps(
                due, virtual_s, overdue_before=overdue, warm=request.warm
            )
            for passed in older:
                passed.passed += 1
            step.virtual_s = self._base(step.user, due, request.device)
            claim = self._take(step, request, overdue=late)
            _append(self.jobs[step.job_id], claim_events(claim, request.slot))
        await self.faults.after("claim")
        return claim

    async def due_next(self, request: ClaimRequest, limit: int) -> Sequence[UpcomingStep]:
        await self.faults.before("due_next")
        return [
            UpcomingStep(
                type=step.work.type,
                model=self._pinned(step),
                preset=step.work.preset,
                params=step.work.params,
            )
            for step in self._upcoming(request, limit)
        ]

    async def commit_running(self, claim: Claim, events: Sequence[NewEvent]) -> None:
        await self.faults.before("commit_running")
        step = self._owned(claim)
        if step.state is StepState.LEASED:
            _enter(step, StepState.RUNNING)
            step.attempt += 1
            step.vram_wait_since = None
            self.jobs[step.job_id].status = Status.RUNNING
            _append(self.jobs[step.job_id], events)
        await self.faults.after("commit_running")

    async def record(
        self, claim: Claim, state: StepState | None, events: Sequence[NewEvent]
    ) -> None:
        await self.faults.before("record")
        step = self._owned(claim)
        if state is not None:
            _enter(step, state)
        _append(self.jobs[step.job_id], events)
        await self.faults.after("record")

    async def renew(self, claim: Claim, lease_s: float) -> None:
        await self.faults.before("renew")
        self._owned(claim).lease_expires_at = self.now() + lease_s
        await self.faults.after("renew")

    async def add_artifact(self, claim: Claim, artifact: StoredArtifact, event: NewEvent) -> bool:
        await self.faults.before("add_artifact")
        inserted = self._add(claim, artifact, event)
        await self.faults.after("add_artifact")
        return inserted

    async def finish(self, claim: Claim, end: AttemptResult) -> UUID | None:
        await self.faults.before("finish")
        known = self.steps.get(claim.step_id)
        if known is not None and known.epoch == claim.epoch:
            # An earlier commit of the same call, whose answer was lost.
            if known.state is end.state:
                return claim.step_id if end.state is StepState.QUEUED else self._next(known)
            if (end.state, known.state) == (StepState.QUEUED, StepState.CANCELLED):
                raise CancelRequested
        step = self._owned(claim)
        if end.state is StepState.QUEUED and step.cancel_requested:
            raise CancelRequested
        next_id = self._end(step, end)
        await self.faults.after("finish")
        return next_id

    async def requested_cancels(self, worker_id: UUID) -> set[UUID]:
        await self.faults.before("requested_cancels")
        return {
            step.id
            for step in self.steps.values()
            if step.lease_owner == worker_id and step.cancel_requested
        }

    async def release_unacknowledged(
        self, worker_id: UUID, known: Collection[tuple[UUID, int]]
    ) -> int:
        await self.faults.before("release_unacknowledged")
        unheard = [
            step
            for step in self.steps.values()
            if step.lease_owner == worker_id
            and step.state is StepState.LEASED
            and (step.id, step.epoch) not in known
        ]
        for step in unheard:
            step.epoch += 1
            step.lease_owner = step.lease_expires_at = None
            if step.cancel_requested:
                self._cancel_step(step)
                self._settle(self.jobs[step.job_id])
            else:
                _enter(step, StepState.QUEUED)
        return len(unheard)

    async def rescue_expired(self, decide: Decide) -> Rescue | None:
        await self.faults.before("rescue_expired")
        for step in self._by_age():
            if step.lease_expires_at is not None and step.lease_expires_at < self.now():
                orphan = self._abandoned(step)
                end = decide(orphan)
                step.epoch += 1
                self._end(step, end)
                return orphan, end
        return None

    async def rescue_unclaimed(self, decide: Decide, after_s: float) -> Rescue | None:
        await self.faults.before("rescue_unclaimed")
        for step in self._by_age():
            if step.state is StepState.QUEUED and step.run_at < self.now() - after_s:
                orphan = self._abandoned(step)
                end = decide(orphan)
                self._end(step, end)
                return orphan, end
        return None

    # Inside ---------------------------------------------------------------------------------------

    def _abandoned(self, step: StoredStep) -> OrphanedStep:
        return OrphanedStep(
            id=step.id,
            job_id=step.job_id,
            name=step.work.name,
            state=step.state,
            epoch=step.epoch,
            attempt=step.attempt,
            losses=step.losses,
            cancel_requested=step.cancel_requested,
            correlation_id="correlation",
            traceparent=self.jobs[step.job_id].traceparent,
        )

    def _next(self, step: StoredStep) -> UUID | None:
        chain = self.steps_of(step.job_id)[step.position + 1 :]
        return next((each.id for each in chain[:1] if each.state != StepState.CANCELLED), None)

    def _by_age(self) -> list[StoredStep]:
        return sorted(self.steps.values(), key=lambda step: step.run_at)

    def _upcoming(self, request: ClaimRequest, limit: int) -> list[StoredStep]:
        """One claim after the other, as if each step took what its user's take on average."""
        due = [step for step in self.steps.values() if self._is_due(step, request)]
        virtual_s, found = self._virtual_s(due, request.device), list[StoredStep]()
        while due and len(found) < limit:
            warm = () if found else request.warm
            (step, *_), _ = next_steps(
                due, virtual_s, overdue_before=self._overdue(request), warm=warm
            )
            found.append(step)
            due.remove(step)
            share = self.shares.get((step.user, request.device), Share())
            virtual_s[step.user] += share.mean_s / step.weight
        return found

    def _overdue(self, request: ClaimRequest) -> float:
        return self.now() - request.max_passed_s if request.overdue else float("-inf")

    def _virtual_s(self, due: Sequence[StoredStep], device: str) -> dict[str, float]:
        """Of each user that waits, with what its steps in flight use."""
        return {
            user: self._base(user, due, device)
            + sum(
                max(self.now() - step.claimed_at, share.mean_s) / step.weight
                for step in self._in_flight(device)
                if step.user == user
            )
            for user in {step.user for step in due}
            if (share := self.shares.get((user, device), Share()))
        }

    def _base(self, user: str, due: Sequence[StoredStep], device: str) -> float:
        flying = self._in_flight(device)
        started = [share.start_s for (_, of), share in self.shares.items() if of == device]
        return base(
            self.shares.get((user, device)),
            max([0.0, *started, *(step.virtual_s for step in flying)]),
            min(step.created_at for step in due if step.user == user),
            [step.virtual_s for step in flying if step.user == user],
        )

    def _in_flight(self, device: str) -> list[StoredStep]:
        return [
            step
            for step in self.steps.values()
            if step.state in OWNED and step.work.device == device
        ]

    def _is_due(self, step: StoredStep, request: ClaimRequest) -> bool:
        return (
            step.state is StepState.QUEUED
            and step.work.queue in request.queues
            and step.work.device == request.device
            and step.run_at <= self.now()
            and step.work.vram_bytes <= request.capacity_bytes
            and (step.model_id is None or step.model_id in request.models)
            and set(step.work.loras or ()) <= set(request.models)
            and (not request.priorities or step.priority in request.priorities)
            and (not request.users or step.user in request.users)
        )

    def _take(self, step: StoredStep, request: ClaimRequest, *, overdue: bool) -> Claim:
        _enter(step, StepState.LEASED)
        step.epoch += 1
        step.claimed_at = self.now()
        step.lease_owner = request.worker_id
        step.lease_expires_at = self.now() + request.lease_s
        job, chain, work = self.jobs[step.job_id], self.steps_of(step.job_id), step.work
        since = step.vram_wait_since
        shown = [event for event in job.events if event.code == Code.PROGRESS]
        return Claim(
            step_id=step.id,
            job_id=job.id,
            user=step.user,
            epoch=step.epoch,
            lease_owner=request.worker_id,
            attempt=step.attempt,
            losses=step.losses,
            cancel_requested=step.cancel_requested,
            vram_waited_s=0.0 if since is None else self.now() - since,
            name=work.name,
            type=work.type,
            params=work.params,
            count=job.count,
            preset=work.preset,
            vram_bytes=work.vram_bytes,
            timeout_s=work.timeout_s,
            model=self._pinned(step),
            correlation_id="correlation",
            traceparent=job.traceparent,
            done_items=tuple(a.item_index for a in _made(job, step)),
            inputs=_made(job, chain[step.position - 1]) if step.position else (),
            position=step.position,
            chain_length=len(chain),
            progress=float((shown[-1].payload or {})["progress"]) if shown else 0.0,
            queued_s=self.now() - step.run_at,
            overdue=overdue,
        )

    def _pinned(self, step: StoredStep) -> PinnedModel | None:
        if step.work.model is not None:
            return step.work.model
        if step.model_id is None:
            return None
        return PinnedModel(
            id=step.model_id, name="tiny", version="1", kind="sd", checkpoint_sha256="0" * 64
        )

    def _owned(self, claim: Claim) -> StoredStep:
        step = self.steps.get(claim.step_id)
        if step is None or step.state not in OWNED:
            raise Stale
        if (step.epoch, step.lease_owner) != (claim.epoch, claim.lease_owner):
            raise Stale
        return step

    def _add(self, claim: Claim, artifact: StoredArtifact, event: NewEvent) -> bool:
        job = self.jobs[claim.job_id]
        key = (claim.step_id, artifact.item_index)
        known = job.artifacts.get(key)
        if known is not None and known.s3_key == artifact.s3_key:
            return True  # an earlier commit of the same call, whose answer was lost
        self._owned(claim)
        if known is not None:
            return False
        job.artifacts[key] = artifact
        _append(job, [event])
        return True

    def _end(self, step: StoredStep, end: AttemptResult) -> UUID | None:
        requeued = end.state is StepState.QUEUED
        if requeued == (end.reason is not None):
            raise AssertionError(f"{end.state} with reason {end.reason}")
        _check_storable(end.error)
        self._charge(step)
        _enter(step, end.state)
        step.reason = end.reason
        if end.error is not None or not requeued:
            step.error = end.error
        step.attempt, step.losses = end.attempt, end.losses
        step.lease_owner = step.lease_expires_at = None
        since = step.vram_wait_since
        step.vram_wait_since = (self.now() if since is None else since) if end.vram_wait else None
        job = self.jobs[step.job_id]
        _append(job, end.events)
        if not requeued:
            return self._settle(job)
        step.run_at = self.now() + end.delay_s
        job.status = Status.QUEUED
        return step.id

    def _charge(self, step: StoredStep) -> None:
        if step.state not in OWNED:
            return
        assert step.lease_expires_at is not None
        used_s = max(0.0, min(self.now(), step.lease_expires_at) - step.claimed_at)
        share = self.shares.setdefault((step.user, step.work.device), Share())
        started = step.state is not StepState.LEASED
        share.charge(step.virtual_s, used_s if started else 0.0, step.weight, self.now())

    def _settle(self, job: StoredJob) -> UUID | None:
        chain = self.steps_of(job.id)
        broken = next(
            (s for s in chain if s.state in (StepState.FAILED, StepState.CANCELLED)), None
        )
        waiting = [step for step in chain if step.state is StepState.PENDING]
        if waiting and (broken is not None or job.cancel_requested):
            for step in waiting:
                self._cancel_step(step)
            broken = broken or waiting[0]
        elif waiting:
            _enter(waiting[0], StepState.QUEUED)
            waiting[0].run_at = self.now()
            return waiting[0].id
        if broken is None:
            _finish(job, Status.SUCCEEDED, Reason.COMPLETED, None)
        elif broken.state is StepState.FAILED:
            assert broken.reason is not None
            _finish(job, Status.FAILED, broken.reason, broken.error)
        else:
            _finish(job, Status.CANCELLED, Reason.CANCELLED, CANCELLED_ERROR)
        return None

    def _cancel_step(self, step: StoredStep) -> None:
        _enter(step, StepState.CANCELLED)
        step.reason, step.error = Reason.CANCELLED, CANCELLED_ERROR


def _made(job: StoredJob, step: StoredStep) -> tuple[StoredArtifact, ...]:
    """What a step has stored, by item."""
    return tuple(made for (owner, _), made in sorted(job.artifacts.items()) if owner == step.id)


def _enter(step: StoredStep, state: StepState) -> None:
    if step.state in TERMINAL:
        raise AssertionError(f"a {step.state} step was written again, to {state}")
    step.state = state
    step.history.append(state)


def _finish(job: StoredJob, status: Status, reason: Reason, error: dict[str, Any] | None) -> None:
    job.status, job.reason, job.error = status, reason, error
    _append(job, [NewEvent(code=Code.JOB_FINISH, message=f"job {status}")])


def _append(job: StoredJob, events: Sequence[NewEvent]) -> None:
    for event in events:
        _check_storable(asdict(event) | {"step_id": None})
        # Sent again by somebody who had no answer.
        if not any(event is written for written in job.events):
            job.events.append(event)


def _check_storable(value: Mapping[str, Any] | None) -> None:
    """What PostgreSQL refuses: NUL, half a surrogate pair, a number that is none."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    text.encode()
    if "\\u0000" in text:
        raise AssertionError("PostgreSQL cannot store NUL")
