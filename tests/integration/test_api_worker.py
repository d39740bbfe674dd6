"""What a real worker tells, as clients of the API get it: nothing is lost between the two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from tests.integration.api_harness import BODY, Api, running_api
from tests.support.worker_process import Worker, until, workers

from cli.model_folders import register
from cli.stack.embedded import Infrastructure
from shared.db.migrate import upgrade

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True, slots=True)
class Scene:
    """An API, and a worker that draws with a small model."""

    api: Api
    worker: Worker

    def progress(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.client.get(f"/v1/jobs/{job}/progress").json()
        return found

    def status(self, job: str) -> str:
        found: str = self.api.client.get(f"/v1/jobs/{job}").json()["status"]
        return found

    def events(self, job: str) -> list[dict[str, Any]]:
        lines = self.api.client.get(f"/v1/jobs/{job}/logs").text.splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def scene(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("worker")
    url = stack.environment["DF_DATABASE_URL"]
    upgrade(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE jobs, steps, events, artifacts, models, workers CASCADE")
    model = folder / "models/sd/tiny@1"
    subprocess.run([sys.executable, "-m", "runner.tiny", str(model)], check=True)
    register(url, model)
    ours = {"DF_MODELS_DIR": str(folder / "models"), "DF_DEVICE": "cpu", "DF_DRAIN_S": "0"}
    with (
        workers(folder / "worker", stack.environment | ours) as start,
        running_api(stack.environment) as api,
    ):
        yield Scene(api, start())


def test_an_item_that_is_being_made_shows_how_far_it_is(scene: Scene) -> None:
    job = scene.api.create(count=40, steps=200)

    def partly() -> list[float]:
        items = [item["progress"] for item in scene.progress(job)["items"]]
        return [value for value in items if 0 < value < 1]

    scene.worker.until(partly, "an item is partly made")
    scene.api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    until(lambda: scene.status(job) == "cancelled", "it is cancelled")
    told = [event for event in scene.events(job) if event["code"] == "progress"][:-1]
    named = [event for event in told if event["payload"]["stage"] != "load"]
    assert named
    assert all(event["item_index"] == event["payload"]["item_index"] for event in named)
    assert all(0 <= event["payload"]["item_progress"] <= 1 for event in named)


def test_the_clients_own_id_is_on_every_line_that_the_worker_writes_about_its_job(
    scene: Scene,
) -> None:
    answer = scene.api.client.post(
        "/v1/jobs", json=BODY, headers={"X-Client-Request-Id": "order-4711"}
    )
    job = answer.json()["job"]["id"]
    until(lambda: scene.status(job) == "succeeded", "it is made")
    lines = [json.loads(line) for line in scene.worker.log.read_text().splitlines()]
    ours = [line for line in lines if line.get("job_id") == job]
    assert "step.claimed" in {line.get("code") for line in ours}
    assert {line.get("client_request_id") for line in ours} == {"order-4711"}
    assert {line["correlation_id"] for line in ours} == {answer.headers["X-Request-Id"]}
