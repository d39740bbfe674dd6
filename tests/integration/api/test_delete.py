"""Delete a job: afterwards nothing of its prompt is left, and a kill leaves what `prune` finds."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import anyio
import pytest
from PIL import Image
from tests.support.api_harness import BODY, Api, running_api
from tests.support.database import tables_with
from tests.support.stored_objects import stored_keys

from api.routes import jobs as routes
from shared.db import inputs
from shared.db.engine import Database
from shared.db.inputs import NewInput
from shared.errors import InfraUnavailable
from shared.events import NewEvent
from shared.object_store import ObjectStore, open_store
from shared.retention import prune
from shared.states import Reason, Status

SECRET = "aubergine-7a41"
KEYS = {"shop": "k-shop", "web": "k-web"}
CONFIGURED = ",".join(
    f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment, api_keys=CONFIGURED) as running:
        running.install()
        running.client.headers["Authorization"] = "Bearer k-shop"
        yield running


def keys_of(api: Api, job: str) -> list[str]:
    async def main() -> list[str]:
        store = open_store(api.settings)
        try:
            return await stored_keys(store, f"dreamforge/default/jobs/{job}/")
        finally:
            store.close()

    return anyio.run(main)


def secret_job(api: Api, **headers: str) -> str:
    """A job that failed after its first picture, and whose prompt is in all that tells of it."""
    words = {
        "prompt": f"a {SECRET}",
        "negative_prompt": f"no {SECRET}",
        "count": 2,
        "tags": {"note": SECRET},
    }
    chain = {"chain": {"upscale": {"scale": 2, "impl": "resample"}}}
    answer = api.client.post("/v1/jobs", json=BODY | words | chain, headers=headers)
    job: str = answer.json()["job"]["id"]
    api.append(job, NewEvent(code="runner.log", message="cut", payload={"cut": SECRET}))
    api.artifact(job, 0, SECRET.encode())
    error = {"code": "provider_error", "message": f"{SECRET} is no vegetable", "details": {}}
    api.finish(job, Status.FAILED, Reason.PROVIDER_ERROR, error)
    return job


def left(api: Api) -> list[str]:
    return tables_with(api.settings.database_url.get_secret_value(), SECRET)


def test_nothing_of_the_prompt_is_left_and_a_second_request_is_no_error(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    job = secret_job(api, **{"Idempotency-Key": "order-1", "X-Client-Request-Id": "order-1"})
    # It must be able to fail: this is where the prompt is.
    assert left(api) == ["events", "job_tags", "jobs", "steps"]
    assert keys_of(api, job) != []

    for _ in range(2):
        answer = api.client.delete(f"/v1/jobs/{job}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert left(api) == []
    assert tables_with(api.settings.database_url.get_secret_value(), job) == []
    assert keys_of(api, job) == []
    for rest in ("", "/artifacts", "/logs", "/progress", "/progress/stream"):
        assert api.client.get(f"/v1/jobs/{job}{rest}").status_code == 404
    assert caplog.records and SECRET not in str([vars(record) for record in caplog.records])
    # What it used is counted, and its key is free.
    assert api.sql("SELECT jobs_failed FROM usage") == [(1,)]
    again = api.client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "order-1"})
    assert again.status_code == 202
    assert "Idempotent-Replayed" not in again.headers


def test_copies_of_its_pictures_among_the_inputs_go_too(api: Api) -> None:
    """A job that starts from a picture of another job gets a copy of it."""
    job, others, id = secret_job(api), b"another picture", uuid4()
    for data, kept in ((SECRET.encode(), id), (others, uuid4())):
        sha256 = hashlib.sha256(data).hexdigest()
        api.transaction(
            inputs.insert,
            NewInput(
                id=kept,
                user="shop",
                format="png",
                width=64,
                height=64,
                orientation=1,
                size_bytes=len(data),
                sha256=sha256,
                s3_key=inputs.object_key("shop", sha256, kept),
            ),
        )
    assert api.client.get(f"/v1/inputs/{id}").status_code == 200
    assert api.client.delete(f"/v1/jobs/{job}").status_code == 204
    assert api.client.get(f"/v1/inputs/{id}").status_code == 404
    assert api.client.get(f"/v1/inputs/{kept}").status_code == 200


def test_an_input_whose_object_cannot_be_deleted_stays(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = api.client.post("/v1/inputs", files={"file": ("a.png", picture())})
    path = f"/v1/inputs/{sent.json()['input']['id']}"

    async def away(_: ObjectStore, key: str) -> None:
        raise InfraUnavailable("the object store is away")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "delete", away)
        assert api.client.delete(path).status_code == 503
    assert api.client.get(path).status_code == 200  # so that the same request can go on
    assert api.client.delete(path).status_code == 204
    assert api.client.get(path).status_code == 404


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_job_that_lives_is_not_deleted(api: Api, state: str) -> None:
    job = api.create()
    if state == "running":
        api.lease(job)
        api.sql("UPDATE jobs SET status = 'running'")
    answer = api.client.delete(f"/v1/jobs/{job}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert answer.json()["details"] == {"job_id": job, "status": state}
    assert api.client.get(f"/v1/jobs/{job}").status_code == 200


def test_another_keys_job_stays_and_a_text_that_is_no_id_is_not_found(api: Api) -> None:
    job = secret_job(api)
    headers = {"Authorization": "Bearer k-web"}
    assert api.client.delete(f"/v1/jobs/{job}", headers=headers).status_code == 204
    assert api.client.get(f"/v1/jobs/{job}").status_code == 200
    assert keys_of(api, job) != []
    assert api.client.delete("/v1/jobs/x").status_code == 404


def test_a_job_that_was_made_from_it_stays(api: Api) -> None:
    job, replay = secret_job(api), api.create()
    api.sql("UPDATE jobs SET replay_of = %s WHERE id = %s", job, replay)
    assert api.client.delete(f"/v1/jobs/{job}").status_code == 204
    assert api.sql("SELECT replay_of FROM jobs") == [(None,)]


@pytest.mark.parametrize("rest", ["the request again", "the pruner"])
@pytest.mark.parametrize("point", ["before the objects", "between objects and rows"])
def test_what_a_kill_leaves_is_deleted_by_the_same_request_or_by_the_pruner(
    api: Api, monkeypatch: pytest.MonkeyPatch, point: str, rest: str
) -> None:
    job = secret_job(api)

    async def die(*_: Any, **__: Any) -> None:
        raise InfraUnavailable("killed")

    with monkeypatch.context() as patched:
        if point == "before the objects":
            patched.setattr(ObjectStore, "delete", die)
        else:
            patched.setattr(routes, "delete_ended", die)
        answer = api.client.delete(f"/v1/jobs/{job}")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    # The rows name what is left: nothing is lost sight of.
    assert api.client.get(f"/v1/jobs/{job}").status_code == 200

    finish: dict[str, Callable[[], Any]] = {
        "the request again": lambda: api.client.delete(f"/v1/jobs/{job}"),
        "the pruner": lambda: pruned(api),
    }
    finish[rest]()
    assert (left(api), keys_of(api, job)) == ([], [])


def pruned(api: Api) -> None:
    """Prune when the job is past every age."""
    api.sql("UPDATE jobs SET updated_at = now() - interval '1000 days'")
    api.sql("UPDATE artifacts SET created_at = now() - interval '1000 days'")

    async def main() -> None:
        database = Database(api.settings.database_url.get_secret_value())
        store = open_store(api.settings)
        try:
            await prune(database, store, api.settings)
        finally:
            store.close()
            await database.close()

    anyio.run(main)
