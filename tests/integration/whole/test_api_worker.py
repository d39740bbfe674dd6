"""What a real worker records reaches the clients of the API complete."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator

import pytest
from PIL import Image
from tests.support.api_and_worker import Scene, drawing
from tests.support.api_harness import BODY
from tests.support.infrastructure import Infrastructure
from tests.support.worker_process import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def scene(stack: Infrastructure, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with drawing(stack, tmp_path_factory.mktemp("worker")) as found:
        yield found


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


def test_a_job_is_shown_to_who_looks_while_it_is_sampled(scene: Scene) -> None:
    job = scene.api.create(count=40, steps=200, seed=1)
    path = f"/v1/jobs/{job}/progress/stream"
    with scene.api.client.stream("GET", path, timeout=90) as answer:
        lines = answer.iter_lines()
        assert "event: preview" in lines  # reads up to it
        shown = json.loads(next(lines).removeprefix("data: "))
    scene.api.client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    assert (shown["job_id"], shown["steps"]) == (job, 200)
    jpeg = base64.b64decode(shown["image"].removeprefix("data:image/jpeg;base64,"))
    picture = Image.open(io.BytesIO(jpeg))
    assert (picture.format, picture.size) == ("JPEG", (shown["width"], shown["height"]))
    until(lambda: scene.status(job) == "cancelled", "it is cancelled")


def test_the_clients_own_id_is_on_every_line_that_the_worker_writes_about_its_job(
    scene: Scene,
) -> None:
    answer = scene.api.client.post(
        "/v1/jobs", json=BODY, headers={"X-Client-Request-Id": "order-4711"}
    )
    job = answer.json()["job"]["id"]
    until(lambda: scene.status(job) == "succeeded", "it is made")
    ours = [line for line in scene.lines() if line.get("job_id") == job]
    assert "step.claimed" in {line.get("code") for line in ours}
    assert {line.get("client_request_id") for line in ours} == {"order-4711"}
    assert {line["correlation_id"] for line in ours} == {answer.headers["X-Request-Id"]}
