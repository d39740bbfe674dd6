"""A create is one statement, and what it is planned with is never out of date."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis
from celery import Celery
from tests.support.api_harness import BODY, Api, running_api
from tests.support.counting_proxy import CountingProxy, counting_proxy

from api.dispatch import Notifier
from shared.db import models
from shared.dispatch.celery_settings import celery_queue


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.worker(running.install())
        running.create()  # the first one reads what later ones keep
        yield running


def refusal(api: Api, **changes: Any) -> tuple[str, str]:
    """Code and message of a create that is refused."""
    answer = api.client.post("/v1/jobs", json=BODY | changes)
    assert answer.status_code == 422, answer.text
    return answer.json()["code"], answer.json()["message"]


@pytest.fixture
def counted(stack_environment: dict[str, str]) -> Iterator[tuple[Api, CountingProxy]]:
    with counting_proxy(stack_environment["DF_DATABASE_URL"]) as proxy:
        environment = stack_environment | {"DF_DATABASE_URL": proxy.url}
        with running_api(environment) as running:
            running.worker(running.install())
            running.create()
            yield running, proxy


@pytest.mark.parametrize("waiting", [0, 3000])
def test_a_create_takes_one_round_trip_and_one_more_each_second(
    counted: tuple[Api, CountingProxy], waiting: int
) -> None:
    api, proxy = counted
    _fill(api, waiting)
    trips = []
    for number in range(20):
        before = proxy.round_trips
        answer = api.client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": f"{number}"})
        assert answer.status_code == 202
        trips.append(proxy.round_trips - before)
    assert min(trips) == 1, trips
    # The live workers are read again once a second, by a statement of its own. A connection that
    # the pool opens costs more, once.
    assert sorted(trips)[-3] <= 2, trips


def test_a_model_counts_from_the_request_that_follows_its_change(api: Api) -> None:
    other = api.install(name="other")
    assert refusal(api)[1].startswith("model_id: there are several models")
    api.worker(other)
    api.create(model_id="other")
    newer = api.install(name="other", version="2")
    api.worker(newer)
    job = api.create(model_id="other")
    assert api.sql("SELECT model_id FROM steps WHERE job_id = %s", job) == [(newer.id,)]
    assert api.transaction(models.set_enabled, newer.id, enabled=False)
    assert refusal(api, model_id="other")[0] == "model_unavailable"
    assert api.transaction(models.set_enabled, newer.id, enabled=True)
    api.create(model_id="other")
    api.sql("DELETE FROM jobs")
    assert api.transaction(models.retire_model, other.id)
    assert refusal(api, model_id="other@1")[0] == "model_unavailable"


def test_a_refusal_is_of_the_workers_that_there_are_now(api: Api) -> None:
    other = api.install(name="other")
    assert refusal(api, model_id="other")[0] == "model_unavailable"
    api.worker(other)
    api.create(model_id="other")


def test_far_from_the_bound_no_create_waits_for_the_lock_of_its_user(
    stack_environment: dict[str, str],
) -> None:
    with running_api(stack_environment, max_unfinished_jobs=3000) as api:
        api.install()
        api.create()
        url = api.settings.database_url.get_secret_value()
        with psycopg.connect(url) as other:
            other.execute("SELECT pg_advisory_xact_lock(25702, hashtext('default'))")
            api.create()


def test_near_the_bound_it_is_exact(stack_environment: dict[str, str]) -> None:
    with running_api(stack_environment, max_unfinished_jobs=2005) as api:
        api.install()
        _fill(api, 2003)
        statuses = [api.client.post("/v1/jobs", json=BODY).status_code for _ in range(4)]
        assert statuses == [202, 202, 429, 429]


def test_what_waits_for_the_broker_is_sent_before_the_process_ends(
    stack_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, send = threading.Event(), Celery.send_task

    def send_late(self: Celery, *args: Any, **kwargs: Any) -> Any:
        assert ending.wait(5)
        return send(self, *args, **kwargs)

    finish = Notifier.finish

    async def finish_seen(self: Notifier) -> None:
        ending.set()
        await finish(self)

    monkeypatch.setattr(Notifier, "finish", finish_seen)
    with redis.Redis.from_url(stack_environment["DF_REDIS_URL"]) as broker:
        broker.delete(celery_queue("default"))
        with running_api(stack_environment) as api:
            api.install()
            monkeypatch.setattr(Celery, "send_task", send_late)
            for _ in range(3):
                api.create()
        assert broker.llen(celery_queue("default")) == 3


def _fill(api: Api, jobs: int) -> None:
    """So many queued jobs of the same user."""
    api.sql(
        "INSERT INTO jobs (id, type, status, request, count, correlation_id) "
        "SELECT gen_random_uuid(), 'generate', 'queued', '{}', 1, 'x' FROM generate_series(1, %s)",
        jobs,
    )
