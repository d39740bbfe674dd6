"""What the API does while one of its parts is away, and as a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import anyio
import httpx
import psycopg
import pytest
import redis
from minio import Minio
from tests.support.api_harness import BODY, Api, running_api, until
from tests.support.infrastructure import Infrastructure

from api.server import bind
from shared.db.engine import Connection, Database
from shared.dispatch.celery_settings import celery_queue
from shared.errors import InfraUnavailable

T = TypeVar("T")
P = ParamSpec("P")


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        yield running


def metric(api: Api, line: str) -> float:
    text = api.client.get("/metrics").text
    return float(text.partition(f"\n{line} ")[2].split("\n", 1)[0])


def test_ready_is_one_word_and_alive_another(api: Api) -> None:
    anyio.run(api.ensure_bucket)
    assert api.client.get("/readyz").json() == {"status": "ready"}
    assert api.client.get("/healthz").json() == {"status": "ok"}


def test_a_create_rings_the_doorbell_of_its_queue(
    api: Api, stack_environment: dict[str, str]
) -> None:
    with redis.Redis.from_url(stack_environment["DF_REDIS_URL"]) as broker:
        broker.delete(celery_queue("default"))
        job = api.create()
        until(lambda: broker.llen(celery_queue("default")) == 1, "the message arrives")
        (message,) = broker.lrange(celery_queue("default"), 0, 0)
    assert str(api.step_of(job)) in str(message)
    assert metric(api, 'dreamforge_doorbell_rings_total{outcome="sent"}') == 1


class Forgetful(Database):
    """Does what it is told, and once says that it does not know; or does not do it, and says so."""

    lose: ClassVar[str | None] = None

    async def transaction(
        self,
        work: Callable[Concatenate[Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._forget(super().transaction(work, *args, **kwargs))

    async def statement(
        self,
        work: Callable[Concatenate[Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        return await self._forget(super().statement(work, *args, **kwargs))

    async def _forget(self, commit: Coroutine[Any, Any, T]) -> T:
        lose, Forgetful.lose = Forgetful.lose, None
        if lose == "all":
            commit.close()
        done = None if lose == "all" else await commit
        if lose is not None:
            raise InfraUnavailable("the connection broke during the commit")
        return cast("T", done)


@pytest.mark.parametrize("earlier", [0, 1], ids=["by transaction", "by statement"])
@pytest.mark.parametrize(("lose", "status", "jobs"), [("answer", 202, 1), ("all", 503, 0)])
def test_a_create_whose_commit_was_not_answered_is_read_back(
    stack_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    lose: str,
    status: int,
    jobs: int,
    earlier: int,
) -> None:
    monkeypatch.setattr("api.context.Database", Forgetful)
    with running_api(stack_environment) as api:
        api.install()
        earlier_ids = [api.create() for _ in range(earlier)]
        monkeypatch.setattr(Forgetful, "lose", lose)
        answer = api.client.post("/v1/jobs", json=BODY)
        assert answer.status_code == status
        made = [str(job) for (job,) in api.sql("SELECT id FROM jobs")]
        made = [job for job in made if job not in earlier_ids]
        assert len(made) == jobs
        if made:
            assert answer.json()["job"]["id"] == made[0]
            rung = 'dreamforge_doorbell_rings_total{outcome="sent"}'
            until(lambda: metric(api, rung) == 1 + earlier, "the broker gets its message")


def test_without_the_broker_jobs_are_accepted_at_once(api: Api, stack: Infrastructure) -> None:
    stack.stop("broker")
    try:
        started = time.monotonic()
        api.create()
        assert time.monotonic() - started < 1
        until(
            lambda: metric(api, 'dreamforge_doorbell_rings_total{outcome="failed"}') == 1,
            "the failure is counted",
        )
        assert api.client.get("/readyz").json() == {"status": "ready", "degraded": ["broker"]}
    finally:
        stack.restart("broker")
    api.create()
    until(
        lambda: metric(api, 'dreamforge_doorbell_rings_total{outcome="sent"}') == 1,
        "the next message is sent",
    )


def test_a_database_that_answers_and_cannot_write_is_not_ready(api: Api, database_url: str) -> None:
    """One that may use no disk stands for one whose disk is full."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET temp_file_limit = 0")
        admin.execute("SELECT pg_reload_conf()")
        try:
            until(lambda: api.client.get("/readyz").status_code == 503, "it is not ready")
            answer = api.client.get("/readyz").json()
        finally:
            admin.execute("ALTER SYSTEM RESET temp_file_limit")
            admin.execute("SELECT pg_reload_conf()")
    assert answer["details"] == {"down": ["database"]}
    until(lambda: api.client.get("/readyz").status_code == 200, "it is ready again")


def test_a_broker_that_hangs_delays_no_answer(api: Api, stack: Infrastructure) -> None:
    os.kill(stack.pids["broker"], signal.SIGSTOP)
    try:
        for _ in range(3):
            started = time.monotonic()
            api.create()
            assert time.monotonic() - started < 1
    finally:
        os.kill(stack.pids["broker"], signal.SIGCONT)


def test_without_the_store_readiness_names_it_and_urls_are_signed_all_the_same(
    api: Api, stack: Infrastructure
) -> None:
    job = api.create()
    api.artifact(job, 0, b"one")
    stack.stop("store")
    try:
        answer = api.client.get("/readyz")
        assert (answer.status_code, answer.json()["details"]) == (503, {"down": ["store"]})
        assert answer.headers["Retry-After"] == "5"
        assert len(api.client.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]) == 1
    finally:
        stack.restart("store")
    assert api.client.get("/readyz").status_code == 200


def test_without_postgres_every_answer_says_so_and_streams_survive(
    api: Api, stack: Infrastructure
) -> None:
    job = api.create()
    with api.client.stream("GET", f"/v1/jobs/{job}/progress/stream") as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("id: ")) == "id: 1"
        with httpx.Client(base_url=api.base, timeout=30) as other:
            stack.stop("postgres")
            try:
                for refused in (
                    other.post("/v1/jobs", json=BODY),
                    other.get(f"/v1/jobs/{job}"),
                    other.get(f"/v1/jobs/{job}/logs"),
                    other.get(f"/v1/jobs/{job}/progress/stream"),
                ):
                    assert refused.status_code == 503, refused.text
                    assert refused.json()["code"] == "infra_unavailable"
                    assert "postgres" not in refused.text.lower().replace("postgresql", "")
                assert other.get("/readyz").json()["details"] == {"down": ["database"]}
                assert other.get("/healthz").status_code == 200
                assert "dreamforge_queue_depth NaN" in other.get("/metrics").text
            finally:
                stack.restart("postgres")
        api.finish(job)
        assert [line for line in lines if line.startswith("id: ")] == ["id: 2", "id: 3"]


def test_metrics_count_requests_by_template_and_the_queue(api: Api) -> None:
    job = api.create()
    api.create()
    api.client.get(f"/v1/jobs/{job}")
    text = api.client.get("/metrics").text
    assert (
        'dreamforge_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0'
        in text
    )
    assert job not in text
    assert metric(api, "dreamforge_queue_depth") == 2
    assert metric(api, 'dreamforge_jobs_accepted_total{type="generate"}') == 2
    api.client.post(f"/v1/jobs/{job}/cancel")
    assert metric(api, 'dreamforge_jobs_finished_total{reason="cancelled",status="cancelled"}') == 1


def test_the_description_and_its_page_are_served(api: Api) -> None:
    assert "/v1/jobs" in api.client.get("/openapi.json").json()["paths"]
    page = api.client.get("/docs")
    assert "POST" in page.text
    assert "script" not in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize("announced", [True, False])
def test_whoever_sends_a_hundred_megabytes_learns_why_not(api: Api, announced: bool) -> None:
    # http.client, like many, reads no answer before it has sent everything.
    address = urlsplit(api.base)
    link = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30)
    block = b" " * (1 << 20)
    body = block * 100 if announced else iter([block] * 100)
    try:
        link.request("POST", "/v1/jobs", body=body, headers={"Content-Type": "application/json"})
        answer = link.getresponse()
        assert (answer.status, json.load(answer)["code"]) == (413, "payload_too_large")
    finally:
        link.close()
    assert api.client.get("/healthz").status_code == 200


# The process --------------------------------------------------------------------------------------


def process(environment: dict[str, str], **changes: str) -> subprocess.Popen[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    return subprocess.Popen(
        [sys.executable, "-m", "api"],
        env=clean | environment | changes,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> str:
    with bind("127.0.0.1", 0) as probe:
        return str(probe.getsockname()[1])


def test_the_process_serves_and_ends_cleanly_with_an_open_stream(
    stack_environment: dict[str, str], api: Api
) -> None:
    job = api.create()
    port = free_port()
    base = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        try:
            return httpx.get(f"{base}/healthz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    with process(stack_environment, DF_API_PORT=port) as served:
        try:
            until(serves, "it serves", timeout_s=120)
            url = f"{base}/v1/jobs/{job}/progress/stream"
            with httpx.stream("GET", url, timeout=60) as answer:
                lines = answer.iter_lines()
                assert next(line for line in lines if line.startswith("id: ")) == "id: 1"
                served.send_signal(signal.SIGTERM)
                assert not [line for line in lines if line.startswith("id: ")]
            assert served.wait(30) == 0
        finally:
            served.kill()
        assert served.stderr is not None
        log = served.stderr.read()
    assert "Traceback" not in log
    secret = stack_environment["DF_S3_SECRET_KEY"]
    assert secret not in log


@pytest.mark.parametrize(
    ("changes", "message", "code"),
    [
        ({"DF_API_PORT": "taken"}, "DF_API_PORT: ", 2),
        ({"DF_S3_SECRET_KEY": "wrong"}, "DF_S3_ACCESS_KEY, DF_S3_SECRET_KEY: ", 1),
        ({"DF_S3_ENDPOINT": "http://127.0.0.1:1"}, "DF_S3_ENDPOINT: ", 1),
        ({"DF_DATABASE_URL": "{base}/template1"}, "run `dreamforge migrate`", 1),
        ({"DF_DATABASE_URL": "{base}/nothere"}, 'database "nothere" does not exist', 1),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line(
    stack_environment: dict[str, str], changes: dict[str, str], message: str, code: int
) -> None:
    base = stack_environment["DF_DATABASE_URL"].rpartition("/")[0]
    changes = {name: value.replace("{base}", base) for name, value in changes.items()}
    changes = {"DF_API_PORT": "0", "DF_STARTUP_TIMEOUT_S": "1"} | changes
    with process(stack_environment, **changes) as refused:
        try:
            _, errors = refused.communicate(timeout=60)
        finally:
            refused.kill()
    (line,) = errors.splitlines()
    assert line.startswith("api: ")
    assert message in line
    assert refused.returncode == code
    assert stack_environment["DF_S3_SECRET_KEY"] not in line


def test_the_start_makes_the_bucket(stack_environment: dict[str, str]) -> None:
    bucket = f"fresh{time.time_ns()}"
    port = free_port()
    store = Minio(
        stack_environment["DF_S3_ENDPOINT"].partition("//")[2],
        access_key=stack_environment["DF_S3_ACCESS_KEY"],
        secret_key=stack_environment["DF_S3_SECRET_KEY"],
        secure=False,
    )
    with process(stack_environment, DF_API_PORT=port, DF_S3_BUCKET=bucket) as served:
        try:
            until(lambda: store.bucket_exists(bucket), "the bucket is there", timeout_s=60)
        finally:
            served.kill()
