"""Reads the line for all requests and streams of a process, at most once a second.

It is read only while a client asks. Playing it forward takes a thread some milliseconds, and with
the longest line that is read less than a tenth of a second.
"""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from uuid import UUID

import anyio

from api.schemas.responses import QueueOut
from api.waiting.answer import queue_out
from api.waiting.forecast import Forecast
from shared.db.jobs import Step
from shared.db.waiting import Line, LineStep
from shared.errors import InfraUnavailable
from shared.states import StepState
from shared.threads import run_in_thread

FRESH_S = 1.0

ReadLine = Callable[[], Awaitable[Line]]
# By job, the step that waits now.
ReadSteps = Callable[[Collection[UUID]], Awaitable[Mapping[UUID, LineStep]]]


class QueueReader:
    """Places in the line, by what is known of it. `clock` counts seconds.

    All methods raise `InfraUnavailable`.
    """

    def __init__(
        self,
        read_line: ReadLine,
        read_steps: ReadSteps,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_line = read_line
        self._read_steps = read_steps
        self._clock = clock
        self._reading = anyio.Lock()
        self._kept: Forecast | None = None
        self._read_at = 0.0

    async def of_jobs(self, steps: Mapping[UUID, Sequence[Step]]) -> dict[UUID, QueueOut]:
        """Of each job that waits, by its id; `steps` are those of the jobs that are asked about."""
        waiting = {
            job_id
            for job_id, each in steps.items()
            if any(step.state is StepState.QUEUED for step in each)
        }
        if not waiting:
            return {}
        forecast = await self._latest()
        places = {job_id: forecast.place_of_job(job_id) for job_id in waiting}
        others = [job_id for job_id, place in places.items() if place is None]
        if others:  # they came after the line was read, or wait behind what was read of it
            found = await self._read_steps(others)
            places |= {job_id: forecast.place(step) for job_id, step in found.items()}
        return {
            job_id: queue_out(place, self._age_s())
            for job_id, place in places.items()
            if place is not None
        }

    async def of_job(self, job_id: UUID) -> QueueOut | None:
        """Of a job in the part of the line that was read; None: it waits behind, or not at all."""
        place = (await self._latest()).place_of_job(job_id)
        return None if place is None else queue_out(place, self._age_s())

    async def step_of(self, job_id: UUID) -> LineStep | None:
        """The step of the job that waits now; None when none does."""
        return (await self._read_steps([job_id])).get(job_id)

    async def of_step(self, step: LineStep) -> QueueOut:
        """The place of a step that waits."""
        return queue_out((await self._latest()).place(step), self._age_s())

    async def next_end_s(self, user: str) -> float | None:
        """Seconds until one of the user's jobs ends; None when that is not known."""
        end_s = (await self._latest()).next_end_s(user)
        return None if end_s is None else max(0.0, end_s - self._age_s())

    async def _latest(self) -> Forecast:
        async with self._reading:  # one of those that ask reads for all
            if self._kept is None or self._age_s() >= FRESH_S:
                read_at = self._clock()
                line = await self._read_line()
                self._kept = await _forecast(line)
                self._read_at = read_at
            return self._kept

    def _age_s(self) -> float:
        return self._clock() - self._read_at


async def _forecast(line: Line) -> Forecast:
    try:
        return await run_in_thread(partial(Forecast, line))
    except OSError as error:  # no thread left
        raise InfraUnavailable("the line cannot be played forward", reason=str(error)) from error
