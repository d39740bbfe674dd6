"""Events reach an open stream by what their writer announces; the reader's pause is the fallback.

Where the hub's pause is an hour here, only an announcement can have brought an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import anyio
import pytest
import redis
from tests.support.announcements import wait_until_announced
from tests.support.api_harness import Api, running_api, until
from tests.support.infrastructure import Infrastructure

from api.streaming.hub import Hub
from shared.db.engine import Database
from shared.db.events import append_events
from shared.dispatch.event_channel import CHANNEL, EventPublisher
from shared.events import NewEvent


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.context.Hub", partial(Hub, poll_s=3600.0))


def _subscribers(environment: dict[str, str]) -> int:
    with redis.Redis.from_url(environment["DF_REDIS_URL"]) as broker:
        ((_, count),) = broker.pubsub_numsub(CHANNEL)
        return int(count)


@contextmanager
def subscribed_api(environment: dict[str, str]) -> Iterator[Api]:
    """An api that hears of events by now."""
    before = _subscribers(environment)
    with running_api(environment) as api:
        until(lambda: _subscribers(environment) > before, "it subscribes")
        yield api


@contextmanager
def open_stream(api: Api, job: str) -> Iterator[Callable[[str], None]]:
    """A stream that waits for live events; call it with a text to read on until it comes."""
    with api.client.stream("GET", f"/v1/jobs/{job}/progress/stream") as answer:
        lines = answer.iter_lines()

        def read_until(text: str) -> None:
            assert any(text in line for line in lines), f"the stream ended without {text}"

        read_until("job.created")
        yield read_until


def commit_as_worker(api: Api, job: str, message: str) -> None:
    """Append an event as a worker does, and let it be announced."""
    redis_url = api.settings.redis_url.get_secret_value()

    async def main() -> None:
        publisher = EventPublisher(redis_url)
        url = api.settings.database_url.get_secret_value()
        database = Database(url, on_events=publisher.publish)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publisher.run)
            new = [NewEvent(code="progress", message=message)]
            await database.transaction(append_events, UUID(job), new)
            await anyio.to_thread.run_sync(wait_until_announced, channel, job)
            tasks.cancel_scope.cancel()
        await publisher.close()
        await database.close()

    with redis.Redis.from_url(redis_url) as broker, broker.pubsub() as channel:
        channel.subscribe(CHANNEL)
        anyio.run(main)


@pytest.mark.usefixtures("no_pause")
def test_what_a_worker_commits_is_read_at_once(stack_environment: dict[str, str]) -> None:
    with subscribed_api(stack_environment) as api:
        api.install()
        job = api.create()
        with open_stream(api, job) as read_until:
            for number in range(3):
                commit_as_worker(api, job, f"number {number}")
                read_until(f"number {number}")


@pytest.mark.usefixtures("no_pause")
def test_what_another_api_process_commits_is_read_at_once(
    stack_environment: dict[str, str],
) -> None:
    with subscribed_api(stack_environment) as one, subscribed_api(stack_environment) as two:
        one.install()
        job = one.create()
        with open_stream(one, job) as read_until:
            two.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
            read_until("job.finish")


@pytest.mark.usefixtures("no_pause")
def test_what_the_process_itself_commits_needs_no_broker(
    stack: Infrastructure, stack_environment: dict[str, str]
) -> None:
    with running_api(stack_environment) as api:
        api.install()
        job = api.create()
        with open_stream(api, job) as read_until:
            stack.stop("broker")
            try:
                api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
                read_until("job.finish")
            finally:
                stack.restart("broker")


def test_without_the_broker_events_come_by_the_readers_pause_and_later_at_once_again(
    stack: Infrastructure, stack_environment: dict[str, str]
) -> None:
    with subscribed_api(stack_environment) as api:
        api.install()
        job = api.create()
        with open_stream(api, job) as read_until:
            stack.stop("broker")
            try:
                api.append(job, NewEvent(code="progress", message="meanwhile"))
                read_until("meanwhile")
            finally:
                stack.restart("broker")
            until(lambda: _subscribers(stack_environment) > 0, "it subscribes again")
            commit_as_worker(api, job, "afterwards")
            read_until("afterwards")


def test_a_message_that_names_no_job_is_survived(stack_environment: dict[str, str]) -> None:
    with subscribed_api(stack_environment) as api:
        with redis.Redis.from_url(stack_environment["DF_REDIS_URL"]) as broker:
            broker.publish(CHANNEL, b"\xff not ours")
        api.install()
        job = api.create()
        with open_stream(api, job) as read_until:
            commit_as_worker(api, job, "ours")
            read_until("ours")
