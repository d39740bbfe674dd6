"""The hub and the stream: nothing lost, nothing twice, no client waits for a slow one."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from tests.support.stored_events import NOW, stored_event

from api.metrics import Metrics
from api.schemas.responses import QueueOut
from api.streaming import hub as hub_module
from api.streaming.hub import BUFFER, PAGE, Hub
from api.streaming.previews import Previews
from api.streaming.sse import HEARTBEAT, OPENING, ProgressStream
from api.waiting.feed import QueueFeed
from shared.db.events import Event
from shared.db.jobs import Job
from shared.db.waiting import LineStep
from shared.dispatch.preview_channel import ShownPreview
from shared.errors import InfraUnavailable
from shared.states import Status

FAST_S = 0.001


class Log:
    """The events table, in memory."""

    def __init__(self) -> None:
        self.jobs: dict[UUID, list[Event]] = {}
        self.reads = 0
        self.last_read: set[UUID] = set()
        self.away = False
        self.before_return: Callable[[], None] = lambda: None

    def write(self, job_id: UUID, *codes: str) -> None:
        events = self.jobs.setdefault(job_id, [])
        for code in codes:
            events.append(stored_event(len(events) + 1, code, job_id=job_id))

    async def after(self, cursors: Mapping[UUID, int], limit: int) -> list[Event]:
        self.reads += 1
        self.last_read = set(cursors)
        if self.away:
            raise InfraUnavailable("away")
        events = [e for job, seq in cursors.items() for e in self.jobs.get(job, [])[seq:][:limit]]
        await anyio.lowlevel.checkpoint()
        self.before_return()
        return events

    async def existing(self, job_ids: Collection[UUID]) -> set[UUID]:
        await anyio.lowlevel.checkpoint()
        return self.jobs.keys() & job_ids

    async def page(self, job_id: UUID, after: int, limit: int) -> list[Event]:
        if self.away:
            raise InfraUnavailable("away")
        return self.jobs[job_id][after:][:limit]

    def job(self, job_id: UUID, status: Status = Status.RUNNING, seq: int | None = None) -> Job:
        return Job(
            id=job_id,
            type="generate",
            user="default",
            priority="normal",
            status=status,
            reason=None,
            error=None,
            count=1,
            completed=0,
            event_seq=len(self.jobs[job_id]) if seq is None else seq,
            created_at=NOW,
            updated_at=NOW,
            finished_at=None,
            cancel_requested_at=None,
            tags={},
        )


def with_hub(scenario: Callable[[Hub, Log], Awaitable[None]], poll_s: float = FAST_S) -> None:
    async def main() -> None:
        log = Log()
        hub = Hub(log.after, log.existing, poll_s=poll_s)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hub.run)
                await scenario(hub, log)
                tasks.cancel_scope.cancel()

    anyio.run(main)


class NothingWaits:
    async def of_job(self, job_id: UUID) -> QueueOut | None:
        return None

    async def step_of(self, job_id: UUID) -> LineStep | None:
        return None

    async def of_step(self, step: LineStep) -> QueueOut:
        raise AssertionError


def stream_of(hub: Hub, log: Log, job: Job, after: int = 0, **options: Any) -> ProgressStream:
    usual: dict[str, Any] = {"queue": QueueFeed(NothingWaits(), job.id), "previews": Previews()}
    return ProgressStream(
        job, after=after, hub=hub, read_page=log.page, metrics=Metrics(), **(usual | options)
    )


def seqs(messages: list[bytes]) -> list[int]:
    return [
        json.loads(line.removeprefix("data: "))["seq"]
        for message in messages
        for line in message.decode().splitlines()
        if line.startswith("data: ")
    ]


async def collect(stream: ProgressStream) -> list[bytes]:
    return [message async for message in stream.messages()]


def test_history_and_live_join_without_gap_or_repeat_and_end_at_the_last_progress() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, *["progress"] * 450)
        received: list[bytes] = []
        async with anyio.create_task_group() as tasks:

            async def client() -> None:
                received.extend(await collect(stream_of(hub, log, log.job(job_id), after=3)))

            tasks.start_soon(client)
            for _ in range(60):
                await anyio.sleep(FAST_S)
                log.write(job_id, "progress", "log")
            log.write(job_id, "error", "job.finish", "progress", "late")
        assert seqs(received) == list(range(4, 450 + 120 + 3 + 1))
        assert hub.clients == 0

    with_hub(scenario)


def test_a_job_that_has_ended_is_replayed_without_the_hub() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, *["progress"] * 300, "job.finish", "progress")
        received = await collect(stream_of(hub, log, log.job(job_id, Status.SUCCEEDED), after=299))
        assert seqs(received) == [300, 301, 302]
        assert received[0] == OPENING
        assert log.reads == 0

    with_hub(scenario)


def test_a_second_client_of_a_watched_job_gets_all_even_with_an_older_snapshot() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "progress")
        stale = log.job(job_id)
        first = hub.join(job_id, 1)
        log.write(job_id, *["progress"] * 5)
        while not await first.receive(1):
            pass
        received: list[bytes] = []
        async with anyio.create_task_group() as tasks:

            async def client() -> None:
                received.extend(await collect(stream_of(hub, log, stale)))

            tasks.start_soon(client)
            await anyio.sleep(FAST_S)
            log.write(job_id, "job.finish", "progress")
        hub.leave(first)
        assert seqs(received) == list(range(1, 9))

    with_hub(scenario)


def test_a_page_that_was_read_for_a_watch_that_is_gone_is_not_handed_to_the_next_one() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, *["progress"] * 10)
        first = hub.join(job_id, 8)
        swapped: list[Any] = []

        def swap() -> None:
            if not swapped:
                hub.leave(first)
                swapped.append(hub.join(job_id, 5))

        log.before_return = swap
        while not swapped:
            await anyio.sleep(FAST_S)
        got = await swapped[0].receive(1)
        assert [message.seq for message in got] == [6, 7, 8, 9, 10]
        hub.leave(swapped[0])

    with_hub(scenario)


def test_one_statement_serves_all_clients_of_all_jobs() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_ids = [uuid4() for _ in range(20)]
        for job_id in job_ids:
            log.write(job_id, "progress")
        subscribers = [hub.join(job_id, 0) for job_id in job_ids for _ in range(10)]
        for subscriber in subscribers:
            assert [m.seq for m in await subscriber.receive(1)] == [1]
        assert log.reads < 20
        messages = {id(s) for s in subscribers}
        assert len(messages) == hub.clients == 200
        for subscriber in subscribers:
            hub.leave(subscriber)
        assert hub.clients == 0

    with_hub(scenario)


def test_a_client_that_does_not_read_is_ended_and_the_others_are_not() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "job.created")
        slow, quick = hub.join(job_id, 1), hub.join(job_id, 1)
        got: list[int] = []
        for _ in range(3):
            log.write(job_id, *["progress"] * (BUFFER // 2))
            target = len(log.jobs[job_id])
            while not got or got[-1] < target:
                got += [message.seq for message in await quick.receive(1)]
        assert got == list(range(2, len(log.jobs[job_id]) + 1))
        assert slow.lagged
        assert not quick.lagged
        # What it had is still in order: it resumes after the last that it was sent.
        assert [m.seq for m in await slow.receive(1)] == list(range(2, BUFFER + 2))
        hub.leave(slow)
        hub.leave(quick)

    with_hub(scenario)


class Subscription:
    """Which jobs the broker is asked for."""

    def __init__(self) -> None:
        self.jobs: set[UUID] = set()

    def watch(self, job_id: UUID) -> None:
        self.jobs.add(job_id)

    def leave(self, job_id: UUID) -> None:
        self.jobs.discard(job_id)


def shown(job_id: UUID, step: int) -> ShownPreview:
    return ShownPreview(
        job_id=job_id, item_index=0, step=step, steps=9, width=8, height=8, jpeg="/9j/"
    )


def test_previews_come_between_events_without_an_id_and_only_while_somebody_looks() -> None:
    previews, subscription = Previews(), Subscription()
    previews.subscription = subscription

    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "job.created")
        previews.show(shown(job_id, 1))  # nobody looks: it is not kept
        assert subscription.jobs == set()
        early = stream_of(hub, log, log.job(job_id), after=1, previews=previews).messages()
        assert await anext(early) == OPENING
        async with anyio.create_task_group() as tasks:
            received: list[bytes] = []

            async def next_one() -> None:
                received.append(await anext(early))

            tasks.start_soon(next_one)
            await anyio.wait_all_tasks_blocked()
            assert subscription.jobs == {job_id}
            previews.show(shown(job_id, 2))
            previews.show(shown(job_id, 3))  # before it was taken: the newest counts
        late = stream_of(hub, log, log.job(job_id), after=1, previews=previews).messages()
        assert [await anext(late) for _ in range(2)] == [OPENING, received[0]]
        event, data = received[0].decode().strip().splitlines()
        assert event == "event: preview"
        assert json.loads(data.removeprefix("data: ")) == {
            "job_id": str(job_id), "item_index": 0, "step": 3, "steps": 9, "width": 8, "height": 8,
            "image": "data:image/jpeg;base64,/9j/",
        }  # fmt: skip
        await early.aclose()
        assert subscription.jobs == {job_id}
        await late.aclose()
        assert subscription.jobs == set()

    with_hub(scenario, poll_s=60)


def test_a_quiet_stream_gets_heartbeats() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "job.created")
        stream = stream_of(hub, log, log.job(job_id), after=1, heartbeat_s=FAST_S).messages()
        assert [await anext(stream) for _ in range(3)] == [OPENING, HEARTBEAT, HEARTBEAT]
        await stream.aclose()
        assert hub.clients == 0

    with_hub(scenario)


def test_streams_survive_an_absent_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "AWAY_S", FAST_S)

    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "progress")
        log.away = True
        subscriber = hub.join(job_id, 0)
        while log.reads < 3:
            await anyio.sleep(FAST_S)
        log.away = False
        assert [m.seq for m in await subscriber.receive(1)] == [1]
        hub.leave(subscriber)

    with_hub(scenario)


def test_a_stream_whose_history_cannot_be_read_ends_early_so_that_its_client_returns() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "progress")
        log.away = True
        assert seqs(await collect(stream_of(hub, log, log.job(job_id)))) == []
        assert hub.clients == 0

    with_hub(scenario)


def test_close_ends_every_stream_also_those_to_come() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "progress")
        stream = stream_of(hub, log, log.job(job_id)).messages()
        assert (await anext(stream), seqs([await anext(stream)])) == (OPENING, [1])
        hub.close()
        assert [message async for message in stream] == []
        assert seqs(await collect(stream_of(hub, log, log.job(job_id)))) == [1]
        assert hub.clients == 0

    with_hub(scenario)


def test_what_watches_a_job_that_was_deleted_ends_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its end was never read: job and events went first. Another job's watch goes on."""
    monkeypatch.setattr(hub_module, "CHECK_S", FAST_S)

    async def scenario(hub: Hub, log: Log) -> None:
        gone, kept = uuid4(), uuid4()
        for job_id in (gone, kept):
            log.write(job_id, "job.created")
        stream = stream_of(hub, log, log.job(gone), after=1)
        other = hub.join(kept, 1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(collect, stream)
            tasks.start_soon(hub.wait_for_end, gone, 1)
            await anyio.sleep(5 * FAST_S)
            del log.jobs[gone]
        assert hub.clients == 1
        log.write(kept, "progress")
        assert [m.seq for m in await other.receive(5)] == [2]
        assert not other.closing
        hub.leave(other)

    with_hub(scenario)


def test_an_announced_job_is_read_at_once_and_no_other() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        quiet, busy = uuid4(), uuid4()
        log.write(quiet, "progress")
        log.write(busy, "progress")
        watched = [hub.join(job_id, 0) for job_id in (quiet, busy)]
        for subscriber in watched:
            assert [m.seq for m in await subscriber.receive(5)] == [1]
        log.write(busy, "progress")
        hub.wake([busy])
        assert [m.seq for m in await watched[1].receive(5)] == [2]
        assert log.last_read == {busy}
        reads = log.reads
        hub.wake([uuid4()])  # nobody watches it
        log.write(quiet, "progress")
        hub.wake([quiet])
        assert [m.seq for m in await watched[0].receive(5)] == [2]
        assert log.reads == reads + 1
        for subscriber in watched:
            hub.leave(subscriber)

    with_hub(scenario, poll_s=3600)


def test_what_is_announced_while_a_read_runs_is_read_by_the_next_one() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "progress")
        subscriber = hub.join(job_id, 0)

        def commit() -> None:
            log.before_return = lambda: None
            log.write(job_id, "progress")
            hub.wake([job_id])

        log.before_return = commit
        assert [m.seq for m in await subscriber.receive(5)] == [1]
        assert [m.seq for m in await subscriber.receive(5)] == [2]
        hub.leave(subscriber)

    with_hub(scenario, poll_s=3600)


def test_a_job_with_more_than_one_page_is_read_to_its_end() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, *["progress"] * (2 * PAGE + 1))
        subscriber, received = hub.join(job_id, 0), 0
        while received < 2 * PAGE + 1:
            received += len(await subscriber.receive(5))
        hub.leave(subscriber)

    with_hub(scenario, poll_s=3600)


# Waits --------------------------------------------------------------------------------------------


def test_all_that_wait_for_a_job_return_at_its_end_and_nothing_is_encoded_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unexpected(event: Event) -> bytes:
        raise AssertionError("nobody reads this event")

    monkeypatch.setattr(hub_module, "sse_message", unexpected)

    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "log")
        returned = 0

        async def wait(known_seq: int) -> None:
            nonlocal returned
            await hub.wait_for_end(job_id, known_seq)
            returned += 1

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait, 1)
            log.write(job_id, "progress", "step.finish")
            await anyio.sleep(20 * FAST_S)
            tasks.start_soon(wait, 1)  # knows less than what the hub has read
            await anyio.lowlevel.checkpoint()
            assert returned == 0
            log.write(job_id, "job.finish", "progress")
        assert returned == 6
        reads = log.reads
        await anyio.sleep(20 * FAST_S)
        assert log.reads <= reads + 1  # the job is forgotten

    with_hub(scenario)


def test_a_wait_that_begins_after_the_hub_has_read_the_end_returns() -> None:
    """Its job was read before the end, and another client's watch has taken the end since."""

    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "log")
        watcher = hub.join(job_id, 1)
        log.write(job_id, "job.finish", "progress")
        while len(await watcher.receive(1)) == 0:
            pass
        await hub.wait_for_end(job_id, 1)
        hub.leave(watcher)

    with_hub(scenario)


def test_a_hub_that_closes_ends_waits_early_later_ones_too() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_id = uuid4()
        log.write(job_id, "log")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.wait_for_end, job_id, 1)
            await anyio.sleep(5 * FAST_S)
            hub.close()
        await hub.wait_for_end(job_id, 1)

    with_hub(scenario)


def test_a_thousand_waits_are_one_reader() -> None:
    async def scenario(hub: Hub, log: Log) -> None:
        job_ids = [uuid4() for _ in range(1000)]
        for job_id in job_ids:
            log.write(job_id, "log")
        async with anyio.create_task_group() as tasks:
            for job_id in job_ids:
                tasks.start_soon(hub.wait_for_end, job_id, 1)
            await anyio.wait_all_tasks_blocked()
            reads = log.reads
            for job_id in job_ids:
                log.write(job_id, "job.finish")
            hub.wake(job_ids)
        assert log.reads <= reads + 1

    with_hub(scenario, poll_s=60)
