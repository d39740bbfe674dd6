"""Pictures that clients send: stored once for each user, whole or not at all, and pruned."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
import httpx
import PIL.Image
import pytest
from tests.support.api_harness import BODY, Api, running_api, until
from tests.support.stored_objects import stored_keys

from api.admission.pictures import Pictures, find_pictures
from api.context import Context
from api.schemas.requests import CreateJob
from shared.db.engine import Database
from shared.object_store import PART_BYTES, ObjectStore, open_store
from shared.retention import Pruned, prune

KEYS = {"shop": "k-shop", "blog": "k-blog"}
MAX_BYTES = 50_000_000


def picture(colour: str = "red", format: str = "png", orientation: int = 1) -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (64, 32), colour).save(buffer, format, exif=exif.tobytes())
    return buffer.getvalue()


def large_picture(size_bytes: int) -> bytes:
    """A file with the structure of a PNG, of exactly this size; its pixels are noise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    head = (4000).to_bytes(4) + (4000).to_bytes(4) + bytes((8, 2, 0, 0, 0))
    start, end = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head), chunk(b"IEND", b"")
    noise = Random(1).randbytes(size_bytes - len(start) - len(end) - 12)
    return start + chunk(b"IDAT", noise) + end


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    keys = ",".join(f"{n}:{hashlib.sha256(k.encode()).hexdigest()}" for n, k in KEYS.items())
    with running_api(stack_environment, api_keys=keys, max_input_bytes=MAX_BYTES) as running:
        running.client.headers["Authorization"] = f"Bearer {KEYS['shop']}"
        in_store(running, empty)
        yield running


async def empty(store: ObjectStore) -> None:
    await store.ensure_bucket()
    for key in await stored_keys(store):
        await store.delete(key)


def in_store(api: Api, work: Callable[[ObjectStore], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        store = open_store(api.settings)
        try:
            return await work(store)
        finally:
            store.close()

    return anyio.run(main)


def objects(api: Api) -> set[str]:
    return set(in_store(api, stored_keys))


def send(api: Api, data: bytes, user: str = "shop", **more: Any) -> httpx.Response:
    return api.client.post(
        "/v1/inputs",
        files={"file": ("a.png", data)},
        headers={"Authorization": f"Bearer {KEYS[user]}"},
        **more,
    )


def test_a_picture_is_stored_once_for_each_user_and_only_the_user_sees_it(api: Api) -> None:
    data = picture("red", "jpeg", orientation=6)
    first = send(api, data)
    assert first.status_code == 201, first.text
    shown = first.json()["input"]
    assert (shown["width"], shown["height"], shown["format"]) == (32, 64, "jpg")
    assert shown["sha256"] == hashlib.sha256(data).hexdigest()
    assert shown["size_bytes"] == len(data)
    assert shown["expires_at"] > shown["created_at"]
    place = first.headers["Location"]
    again = send(api, data)
    assert (again.status_code, again.headers["Location"]) == (200, place)
    assert again.json()["input"]["id"] == shown["id"]
    other = send(api, data, "blog")
    assert other.status_code == 201
    # What the other user may not see is not there.
    assert api.client.get(place).json()["input"]["id"] == shown["id"]
    foreign = other.headers["Location"]
    for method in ("GET", "DELETE"):
        answer = api.client.request(method, foreign)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert objects(api) == {
        f"dreamforge/{user}/inputs/{shown['sha256']}_{answer.json()['input']['id']}"
        for user, answer in (("shop", first), ("blog", other))
    }
    assert api.client.delete(place).status_code == 204
    assert api.client.get(place).status_code == 404
    assert len(objects(api)) == 1


@pytest.mark.slow
def test_a_large_upload_needs_little_memory_and_arrives_whole(api: Api) -> None:
    data = large_picture(MAX_BYTES)
    boundary = "limit"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    form = (head.encode(), data, f"\r\n--{boundary}--\r\n".encode())

    def body() -> Iterator[bytes]:
        for part in form:
            for start in range(0, len(part), 1 << 16):
                yield part[start : start + (1 << 16)]

    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        answer = api.client.post("/v1/inputs", content=body(), headers=headers)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 201, answer.text
    assert peak - before < 8 << 20
    (key,) = objects(api)  # the parts are gone

    async def stored(store: ObjectStore) -> bytes | None:
        return await store.get(key)

    assert in_store(api, stored) == data
    assert send(api, data).status_code == 200
    assert len(objects(api)) == 1


@pytest.mark.parametrize(
    ("files", "status", "problem"),
    [
        ({"file": b"no picture at all"}, 422, "file: it is no PNG, JPEG or WebP"),
        ({"file": picture()[:60]}, 422, "file: it ends too early"),
        ({"file": b""}, 422, "file: it ends too early"),
        ({"picture": picture()}, 422, "the form has one field, 'file'"),
        ({}, 422, "must be a form"),
        ({"file": large_picture(MAX_BYTES + 1)}, 413, "file: the picture is over 50000000 bytes"),
        ({"file": bytes(MAX_BYTES + (1 << 20))}, 413, "the request body is over"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_nothing(
    api: Api, files: dict[str, bytes], status: int, problem: str
) -> None:
    answer = api.client.post("/v1/inputs", files=files)
    assert (answer.status_code, answer.json()["code"]) == (
        status,
        {413: "payload_too_large", 422: "invalid_input"}[status],
    )
    assert problem in answer.json()["message"]
    assert objects(api) == set()
    assert api.sql("SELECT count(*) FROM inputs") == [(0,)]


def test_an_upload_that_is_cut_off_leaves_nothing(api: Api) -> None:
    data = large_picture(3 * PART_BYTES)
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    address = urlsplit(api.base)
    with socket.create_connection((address.hostname, address.port)) as line:
        line.sendall(
            b"POST /v1/inputs HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: Bearer k-shop\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            + f"Content-Length: {len(data) + 1000}\r\n\r\n".encode()
            + head
            + data
        )
        until(lambda: len(objects(api)) >= 2, "two parts are stored")
    until(lambda: objects(api) == set(), "the parts are deleted")
    assert api.sql("SELECT count(*) FROM inputs") == [(0,)]


@pytest.mark.parametrize("path", ["/v1/inputs", "/v1/images/edits"])
def test_uploads_have_as_many_places_as_streams(
    stack_environment: dict[str, str], path: str
) -> None:
    """Each holds some megabytes for as long as its client likes."""
    with running_api(stack_environment, max_streams=1) as api:
        address = urlsplit(api.base)
        with socket.create_connection((address.hostname, address.port)) as line:
            line.sendall(
                b"POST /v1/inputs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )

            def status() -> int:
                files = {"file": ("a.txt", b"no picture")}
                return api.client.post(path, files=files, data={"prompt": "x"}).status_code

            until(lambda: status() == 429, "its place is taken")
        until(lambda: status() == 422, "its place is free again")


def test_a_picture_is_kept_for_the_steps_that_name_it_and_then_pruned(api: Api) -> None:
    kept, old, young = (send(api, picture(c)).json()["input"] for c in ("red", "lime", "blue"))
    for each in (kept, old):
        api.sql("UPDATE inputs SET used_at = now() - interval '2 days' WHERE id = %s", each["id"])
    api.install()
    job = api.create()
    named = json.dumps([{"name": "image", "id": kept["id"]}, {"name": "mask", "id": str(uuid4())}])
    api.sql("UPDATE steps SET inputs = %s::jsonb WHERE job_id = %s", named, job)
    refused = api.client.delete(f"/v1/inputs/{kept['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")

    def ids() -> set[str]:
        return {str(id) for (id,) in api.sql("SELECT id FROM inputs")}

    expected = pass_over(api, dry_run=True)
    assert expected is not None
    assert expected.inputs == 1
    done = pass_over(api)
    assert done is not None
    assert (done.inputs, done.objects, done.orphans) == (1, 1, 0)
    assert ids() == {kept["id"], young["id"]}
    assert len(objects(api)) == 2
    # It is kept for as long from the end of the step on.
    api.finish(job)
    pass_over(api)
    assert kept["id"] in ids()
    api.sql("UPDATE steps SET finished_at = now() - interval '2 days' WHERE job_id = %s", job)
    pass_over(api)
    assert ids() == {young["id"]}


def test_a_picture_that_is_deleted_after_a_create_found_it_is_refused_by_name(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.install()
    api.sql('UPDATE models SET capabilities = \'["generate", "image_to_image"]\'')
    api.create()  # from now on a create is one statement
    sent = api.client.post("/v1/inputs", files={"file": ("a.png", picture())})
    id = sent.json()["input"]["id"]
    found, go = threading.Event(), threading.Event()

    async def find_and_wait(context: Context, body: CreateJob, user: str) -> Pictures:
        pictures = await find_pictures(context, body, user)
        assert pictures.by_id
        found.set()
        assert await anyio.to_thread.run_sync(go.wait, 20)
        return pictures

    monkeypatch.setattr("api.admission.create.find_pictures", find_and_wait)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(api.client.post, "/v1/jobs", json=BODY | {"image": id})
        assert found.wait(20)
        assert api.client.delete(f"/v1/inputs/{id}").status_code == 204
        go.set()
        refused = answer.result(20)
    assert (refused.status_code, refused.json()["details"]["field"]) == (422, "image")
    assert api.sql("SELECT count(*) FROM jobs") == [(1,)]


def pass_over(api: Api, **how: Any) -> Pruned | None:
    async def main() -> Pruned | None:
        database = Database(api.settings.database_url.get_secret_value())
        store = open_store(api.settings)
        try:
            return await prune(database, store, api.settings, **how)
        finally:
            await database.close()
            store.close()

    return anyio.run(main)
