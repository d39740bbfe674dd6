"""Broker, database and store go away and come back under a living worker; its jobs end well.

The api, the worker and the parts are real; the runners do what the prompt says. Only the part is
restarted: its clients reconnect by themselves, and no step is charged for the time that it waited.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
import redis
from celery import Celery
from tests.support import quick_timings
from tests.support.api_harness import Api, running_api, until
from tests.support.infrastructure import Infrastructure
from tests.support.worker_process import Worker, workers

from cli.models.install import bundled_models, install, register
from shared.dispatch.celery_settings import TASK_NAME, celery_queue, publisher_settings

SETTINGS = {
    "DF_DEVICE": "cpu",
    "DF_DRAIN_S": "0",
}
# The usual lease is longer than any part is away here, so no step may be rescued. Other tests test
# the lease itself.
RENEW_S = 0.5
BY_POLLING, BY_NOTIFICATION = 0.1, 3600.0
MAX_CREATE_WAIT_S = 1.0  # for the broker
NOTIFICATIONS = "dreamforge_doorbells_total"


class Fabric:
    """`start` starts another worker of the same settings."""

    def __init__(
        self, api: Api, start: Callable[[], Worker], stack: Infrastructure, folder: Path
    ) -> None:
        self.api = api
        self.start = start
        self.worker = start()
        self.stack = stack
        self.folder = folder

    def create(self, prompt: str = "quick", **changes: Any) -> str:
        return self.api.create(prompt=prompt, seed=1, **changes)

    def status(self, job: str) -> str:
        return str(self.api.client.get(f"/v1/jobs/{job}").json()["status"])

    def ended(self, *made: str) -> None:
        """Wait until these jobs succeeded, each at the first try."""
        for job in made:
            self.worker.until(partial(self._over, job), f"job {job} ends")
            assert self.step(job) == ("succeeded", 1, 0)

    def _over(self, job: str) -> bool:
        return self.status(job) not in ("queued", "running")

    def step(self, job: str) -> tuple[Any, ...]:
        (row,) = self.api.sql("SELECT state, attempt, losses FROM steps WHERE job_id = %s", job)
        return row

    def events(self, *made: str) -> list[tuple[Any, ...]]:
        return self.api.sql(
            "SELECT job_id, seq, code FROM events WHERE job_id = ANY(%s::uuid[]) ORDER BY 1, 2",
            list(made),
        )

    def waiting_job(self, *, count: int = 1) -> tuple[str, Path]:
        """A job that runs until its file appears."""
        file = self.folder / uuid4().hex
        job = self.create(f"waits_for {file}", count=count)
        self.worker.until(lambda: "progress" in [code for *_, code in self.events(job)], "it runs")
        return job, file

    def notify(self, *step_ids: str) -> None:
        """Send notifications as the api does; the step ids may be wrong."""
        with Celery("test", set_as_current=False) as celery:
            celery.conf.update(publisher_settings(self.stack.environment["DF_REDIS_URL"], 1.0))
            for step_id in step_ids:
                celery.send_task(TASK_NAME, args=[step_id], queue=celery_queue("default"))


@pytest.fixture
def poll_s(request: pytest.FixtureRequest) -> float:
    return float(getattr(request, "param", BY_POLLING))


@pytest.fixture
def fabric(
    stack: Infrastructure, stack_environment: dict[str, str], tmp_path: Path, poll_s: float
) -> Iterator[Fabric]:
    models = tmp_path / "models"
    register(stack_environment["DF_DATABASE_URL"], install(bundled_models()[0], models))
    settings = stack_environment | SETTINGS
    settings |= {"DF_MODELS_DIR": str(models)}
    settings |= quick_timings.in_environment(lease_renew_s=RENEW_S, poll_s=poll_s)
    with (
        running_api(stack_environment) as api,
        workers(tmp_path / "worker", settings, module="tests.support.quick_worker") as start,
    ):
        anyio.run(api.ensure_bucket)
        fabric = Fabric(api, start, stack, tmp_path)
        fabric.worker.wait_ready()
        # A worker that does not poll would never look again for a job that came before its model.
        log = fabric.worker.log
        fabric.worker.until(lambda: "can run here" in log.read_text(), "its model is verified")
        yield fabric


# The broker ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("poll_s", [BY_NOTIFICATION], indirect=True)
def test_the_consumer_gets_messages_again_after_flushall_and_after_the_broker_was_killed(
    fabric: Fabric,
) -> None:
    """This worker does not poll, so each of these jobs runs because of its message."""
    fabric.ended(fabric.create())
    with redis.Redis.from_url(fabric.stack.environment["DF_REDIS_URL"]) as broker:
        broker.flushall()
    fabric.ended(fabric.create())
    fabric.stack.kill("broker")
    without_broker = fabric.create()
    fabric.stack.restart("broker")
    fabric.ended(fabric.create(), without_broker)


def test_without_a_broker_jobs_run_and_a_message_in_flight_makes_no_second_one(
    fabric: Fabric,
) -> None:
    os.kill(fabric.worker.process.pid, signal.SIGSTOP)
    in_flight = fabric.create()
    # The broker has given it to the worker's connection, and the worker does not take it yet.
    sent = 'dreamforge_doorbell_rings_total{outcome="sent"} 1.0'
    until(lambda: sent in fabric.api.client.get("/metrics").text, "the message is on its way")
    fabric.stack.kill("broker")
    os.kill(fabric.worker.process.pid, signal.SIGCONT)
    try:
        started = time.monotonic()
        without_broker = [fabric.create() for _ in range(3)]
        assert time.monotonic() - started < 3
        fabric.ended(in_flight, *without_broker)
    finally:
        fabric.stack.restart("broker")
    before = fabric.events(in_flight, *without_broker)
    received = fabric.worker.metric(NOTIFICATIONS)
    fabric.worker.until(lambda: _received_more(fabric, received), "messages arrive again")
    assert fabric.events(in_flight, *without_broker) == before


def _received_more(fabric: Fabric, than: float) -> bool:
    fabric.notify(str(uuid4()))
    return fabric.worker.metric(NOTIFICATIONS) > than


@pytest.mark.parametrize("poll_s", [BY_NOTIFICATION], indirect=True)
def test_messages_for_what_is_not_to_be_run_do_no_harm(fabric: Fabric) -> None:
    running, file = fabric.waiting_job()
    cancelled = fabric.create()
    fabric.api.client.post(f"/v1/jobs/{cancelled}/cancel").raise_for_status()
    before = fabric.events(running, cancelled)
    received = fabric.worker.metric(NOTIFICATIONS)
    false = [str(fabric.api.step_of(job)) for job in (running, running, cancelled)]
    false += [str(uuid4()), "no id at all", ""]
    fabric.notify(*false)
    fabric.worker.until(
        lambda: fabric.worker.metric(NOTIFICATIONS) >= received + len(false), "all have arrived"
    )
    assert fabric.events(running, cancelled) == before
    file.touch()
    fabric.ended(running)
    late = fabric.events(running)
    fabric.notify(str(fabric.api.step_of(running)))
    fabric.ended(fabric.create())
    assert fabric.events(running) == late


def test_a_worker_starts_and_stops_while_the_broker_is_away(fabric: Fabric) -> None:
    fabric.stack.kill("broker")
    try:
        # The one that met the loss, and one that never had a broker.
        assert fabric.worker.stop() == 0
        fabric.worker = fabric.start()
        fabric.worker.wait_ready()
        fabric.ended(fabric.create())
        assert fabric.worker.stop() == 0
    finally:
        fabric.stack.restart("broker")


def test_a_broker_that_hangs_costs_no_job_and_a_create_a_second(fabric: Fabric) -> None:
    """It keeps its connections and sends nothing, so its clients get no error."""
    fabric.ended(fabric.create())
    broker = fabric.stack.pids["broker"]
    os.kill(broker, signal.SIGSTOP)
    try:
        started = time.monotonic()
        made = [fabric.create() for _ in range(3)]
        assert time.monotonic() - started < 3 * (MAX_CREATE_WAIT_S + 1)
        fabric.ended(*made)
    finally:
        os.kill(broker, signal.SIGCONT)
    received = fabric.worker.metric(NOTIFICATIONS)
    fabric.worker.until(lambda: _received_more(fabric, received), "messages arrive again")


@pytest.mark.crash_matrix
@pytest.mark.timeout(300)
@pytest.mark.parametrize("poll_s", [BY_NOTIFICATION], indirect=True)
@pytest.mark.parametrize("how", ["dead", "hanging"])
def test_a_minute_without_the_broker_is_slept_through(fabric: Fabric, how: str) -> None:
    """This worker does not poll, so later jobs run because the consumer has reconnected."""
    fabric.ended(fabric.create())
    broker = fabric.stack.pids["broker"]
    if how == "dead":
        fabric.stack.kill("broker")
    else:
        os.kill(broker, signal.SIGSTOP)
    over, made = time.monotonic() + 60, []
    try:
        while time.monotonic() < over:
            began = time.monotonic()
            made.append(fabric.create())
            assert time.monotonic() - began < MAX_CREATE_WAIT_S + 1
            time.sleep(5)  # the minute is the subject
    finally:
        if how == "dead":
            fabric.stack.restart("broker")
        else:
            os.kill(broker, signal.SIGCONT)
    fabric.ended(fabric.create(), *made)
    assert len(made) >= 5


# The database -------------------------------------------------------------------------------------


def test_a_step_runs_on_while_the_database_is_away_and_is_written_when_it_is_back(
    fabric: Fabric,
) -> None:
    job, file = fabric.waiting_job(count=2)
    runner = fabric.worker.wait_runner()
    fabric.stack.kill("postgres")
    refused = fabric.api.client.post("/v1/jobs", json={"type": "generate", "prompt": "quick"})
    assert (refused.status_code, refused.json()["code"]) == (503, "infra_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    file.touch()  # its pictures are finished while no row can be written
    fabric.worker.until(lambda: not runner.is_running(), "its runner has done its work and left")
    fabric.stack.restart("postgres")
    fabric.ended(job, fabric.create())
    assert len(fabric.api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]) == 2


# The object store ---------------------------------------------------------------------------------


def test_pictures_wait_for_the_store_without_holding_the_device(fabric: Fabric) -> None:
    waiting, file = fabric.waiting_job(count=2)
    fabric.stack.kill("store")
    file.touch()
    # The only slot serves another step before the first one has its verdict.
    running, other = fabric.waiting_job()
    assert fabric.status(waiting) == "running"
    fabric.stack.restart("store")
    fabric.ended(waiting)
    other.touch()
    fabric.ended(running)
    for job, count in ((waiting, 2), (running, 1)):
        listed = fabric.api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]
        assert sorted(each["item_index"] for each in listed) == list(range(count))
