"""The line is read for all who ask, and not again within a second."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import anyio
from tests.support.line_steps import line_step

from api.waiting.reader import QueueReader
from shared.db.jobs import Step
from shared.db.waiting import Line, LineStep
from shared.states import StepState


class Database:
    """A line of steps, of which only the first `head` are read; counts the reads."""

    def __init__(self, *steps: LineStep, head: int = 10) -> None:
        self.steps = list(steps)
        self.head = head
        self.lines = 0
        self.looks: list[set[UUID]] = []
        self.now = 0.0

    async def line(self) -> Line:
        self.lines += 1
        await anyio.lowlevel.checkpoint()
        cut = {"cuda"} if len(self.steps) > self.head else set[str]()
        return Line(waiting=self.steps[: self.head], cut=cut, running=[], live=[], run_times={})

    async def steps_of(self, job_ids: Collection[UUID]) -> dict[UUID, LineStep]:
        self.looks.append(set(job_ids))
        return {step.job_id: step for step in self.steps if step.job_id in job_ids}

    def reader(self) -> QueueReader:
        return QueueReader(self.line, self.steps_of, lambda: self.now)


def shown(*steps: LineStep, state: StepState = StepState.QUEUED) -> dict[UUID, list[Step]]:
    facts: dict[str, Any] = {"name": "generate", "type": "generate", "reason": None, "attempt": 0}
    return {step.job_id: [Step(id=step.id, state=state, **facts)] for step in steps}


def test_all_who_ask_within_a_second_share_one_read() -> None:
    async def main() -> None:
        here = Database(line_step(), line_step())
        reader = here.reader()
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(reader.of_jobs, shown(*here.steps))
        here.now = 0.99
        await reader.of_step(here.steps[0])
        assert (here.lines, here.looks) == (1, [])
        here.now = 1.0
        await reader.of_jobs(shown(*here.steps))
        assert here.lines == 2

    anyio.run(main)


def test_jobs_that_do_not_wait_cost_nothing() -> None:
    async def main() -> None:
        here = Database(line_step())
        for state in set(StepState) - {StepState.QUEUED}:
            assert await here.reader().of_jobs(shown(*here.steps, state=state)) == {}
        assert here.lines == 0

    anyio.run(main)


def test_those_that_the_line_does_not_have_are_looked_up_together() -> None:
    async def main() -> None:
        here = Database(*(line_step() for _ in range(5)), head=2)
        found = await here.reader().of_jobs(shown(*here.steps))
        assert [(q.position, q.exact) for q in found.values()].count((3, False)) == 3
        assert here.looks == [{step.job_id for step in here.steps[2:]}]

    anyio.run(main)


def test_a_job_that_was_claimed_meanwhile_has_no_place() -> None:
    async def main() -> None:
        here = Database(line_step())
        gone = replace(line_step(), id=uuid4())
        assert await here.reader().of_jobs(shown(gone)) == {}
        assert await here.reader().step_of(gone.job_id) is None

    anyio.run(main)


def test_nobody_ends_next_where_nothing_runs() -> None:
    async def main() -> None:
        assert await Database(line_step()).reader().next_end_s("ada") is None

    anyio.run(main)
