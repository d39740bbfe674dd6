"""The official client of OpenAI against our image routes, unchanged: only `base_url` is ours.

A thread plays the worker, so that a test says when a job ends and how.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import anyio
import httpx
import openai
import PIL.Image
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import ImagesResponse
from tests.support.api_harness import Api, running_api, until

from shared.dispatch.preview_channel import PreviewPublisher
from shared.models.descriptor import Defaults
from shared.protocol.messages import Preview
from shared.states import Reason, Status

JPEG = b"\xff\xd8\xff\xe0"
ONE, TWO = b"\x89PNG one", b"\x89PNG two"
OOM: dict[str, Any] = {"code": "oom", "message": "not enough memory", "details": {"peak_bytes": 5}}
KEY = "k-shop"

Connect = Callable[..., OpenAI]
Generate = Callable[..., Future[Any]]


@pytest.fixture
def api(stack_environment: dict[str, str]) -> Iterator[Api]:
    with running_api(stack_environment) as running:
        running.install()
        yield running


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def client_of() -> Iterator[Connect]:
    """Make the official client for an API, with this key."""
    with ExitStack() as opened:

        def connect(api: Api, key: str = "none", **options: Any) -> OpenAI:
            client = OpenAI(base_url=f"{api.base}/v1", api_key=key, timeout=30, **options)
            return opened.enter_context(client)

        yield connect


def only_job(api: Api) -> str:
    """The id of the one job that there is, once there is one and its call waits."""
    until(
        lambda: "\ndreamforge_waiting_calls 1.0\n" in httpx.get(f"{api.base}/metrics").text,
        "the call waits",
    )
    ((job,),) = api.sql("SELECT id::text FROM jobs WHERE status = 'queued'")
    return str(job)


def draw(api: Api, *pictures: bytes) -> str:
    """What the worker does for the one job; its id."""
    job = only_job(api)
    for index, picture in enumerate(pictures):
        api.artifact(job, index, picture, seed=7 + index)
    api.finish(job)
    return job


@pytest.fixture
def generate(api: Api, pool: ThreadPoolExecutor, client_of: Connect) -> Generate:
    """Call `images.generate` in another thread."""
    client = client_of(api, max_retries=0)

    def begin(**arguments: Any) -> Future[Any]:
        call: Callable[..., Any] = client.images.with_raw_response.generate
        return pool.submit(call, prompt="a red apple", **arguments)

    return begin


def test_pictures_come_with_the_answer_and_the_job_is_one_like_any_other(
    api: Api, generate: Generate
) -> None:
    answer = generate(
        model="tiny",
        n=2,
        size="128x64",
        quality="low",
        background="auto",
        output_format="jpeg",
        output_compression=80,
        user="ada",
        extra_body={"seed": 7, "negative_prompt": "green"},
    )
    job = draw(api, ONE, TWO)
    raw = answer.result(20)
    images: ImagesResponse = raw.parse()
    assert raw.headers["X-Job-Id"] == job
    assert [base64.b64decode(each.b64_json or "") for each in images.data or ()] == [ONE, TWO]
    assert (images.quality, images.size, images.background) == ("low", "64x64", "opaque")
    assert images.usage is not None
    assert images.usage.total_tokens == images.usage.input_tokens_details.text_tokens == 0
    assert images.usage.model_dump()["pictures"] == 2
    (listed,) = api.client.get("/v1/jobs", params={"tag": "user=ada"}).json()["jobs"]
    assert (listed["id"], listed["status"]) == (job, "succeeded")
    ((params,),) = api.sql("SELECT params FROM steps")
    asked = ("width", "height", "count", "format", "jpeg_quality", "steps", "seed")
    assert [params[name] for name in asked] == [128, 64, 2, "jpg", 80, 2, 7]
    assert params["negative_prompt"] == "green"


def test_pictures_may_be_addresses(api: Api, generate: Generate) -> None:
    answer = generate(response_format="url", size="auto")
    draw(api, ONE)
    (image,) = answer.result(20).parse().data
    assert image.b64_json is None
    assert httpx.get(image.url).content == ONE


def test_a_stream_ends_with_the_pictures_and_keeps_the_line_open_until_then(
    api: Api, generate: Generate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.dialect.call.HEARTBEAT_S", 0.05)
    answer = generate(stream=True, partial_images=2, n=2)
    raw = answer.result(20)  # the answer begins before there is a picture
    job = draw(api, ONE, TWO)
    assert raw.headers["X-Job-Id"] == job
    events = list(raw.parse())
    assert {event.type for event in events} == {"image_generation.completed"}
    assert [base64.b64decode(event.b64_json) for event in events] == [ONE, TWO]
    assert [event.usage.model_dump()["pictures"] for event in events] == [1, 1]


def test_previews_of_the_job_come_as_partial_images(api: Api, generate: Generate) -> None:
    """A worker makes previews where somebody looks, and that somebody is this stream."""
    answer = generate(stream=True, partial_images=2)
    raw = answer.result(20)
    events = iter(raw.parse())
    job = only_job(api)
    seen: list[Any] = []

    async def publish() -> None:
        publisher = PreviewPublisher(api.settings.redis_url.get_secret_value())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(publisher.run)
            for step in (1, 5, 9):  # of 9: before the first third, in the middle, at the end
                shown = Preview(item_index=0, step=step, steps=9, width=8, height=8)
                expected = {1: 0, 5: 1, 9: 2}[step]
                while True:  # until the api has subscribed, nobody hears it
                    publisher.publish(UUID(job), shown, JPEG)
                    await anyio.sleep(0.05)
                    if len(seen) >= expected:
                        break
            tasks.cancel_scope.cancel()
        await publisher.close()

    def read() -> None:
        for event in events:
            seen.append(event)  # noqa: PERF402 - as they come

    reader = threading.Thread(target=read)
    reader.start()
    anyio.run(publish)
    api.artifact(job, 0, ONE)
    api.finish(job)
    reader.join(20)
    *partials, completed = seen
    assert [event.type for event in partials] == ["image_generation.partial_image"] * 2
    assert [event.partial_image_index for event in partials] == [0, 1]
    assert [base64.b64decode(event.b64_json) for event in partials] == [JPEG, JPEG]
    assert (partials[0].size, partials[0].output_format) == ("8x8", "jpeg")
    assert completed.type == "image_generation.completed"


def test_the_asynchronous_client_streams_too(api: Api, pool: ThreadPoolExecutor) -> None:
    async def call() -> list[bytes]:
        async with AsyncOpenAI(base_url=f"{api.base}/v1", api_key="none") as client:
            events = await client.images.generate(prompt="a red apple", stream=True)
            return [base64.b64decode(event.b64_json) async for event in events]

    answer = pool.submit(asyncio.run, call())
    draw(api, ONE)
    assert answer.result(20) == [ONE]


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({}, 20),
        ({"quality": "low"}, 10),
        ({"quality": "high"}, 30),
        ({"quality": "medium", "mask": True}, 12),
        ({"quality": "low", "mask": True}, 6),
        ({"quality": "hd", "model": "kontext"}, 45),
        ({"quality": "low", "model": "inpainter", "mask": True}, 6),
    ],
)
def test_quality_of_an_edit_goes_by_the_steps_of_the_model_that_edits(
    api: Api,
    pool: ThreadPoolExecutor,
    client_of: Connect,
    arguments: dict[str, Any],
    steps: int,
) -> None:
    """`tiny`, which would draw without a picture, takes 4."""
    for name, own, changes in (
        ("painter", 20, {"capabilities": ("generate", "image_to_image")}),
        ("inpainter", 12, {"capabilities": ("inpaint",)}),
        ("kontext", 30, {"capabilities": ("edit",), "references": 1}),
    ):
        defaults = Defaults(width=64, height=64, steps=own, guidance=7.5)
        api.install(name=name, defaults=defaults, **changes)
    anyio.run(api.ensure_bucket)
    files = {name: png() for name in ("image", "mask") if name == "image" or name in arguments}
    edit: Callable[..., Any] = client_of(api, max_retries=0).images.edit
    answer = pool.submit(edit, prompt="a red apple", **(arguments | files))
    draw(api, ONE)
    assert answer.result(20).data[0].b64_json
    assert api.sql("SELECT (params->>'steps')::int FROM steps") == [(steps,)]


def png() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "param"),
    [
        ({"size": "17x64"}, "invalid_input", "size"),
        ({"size": "1024x64"}, "invalid_input", "size"),  # this model has 512 at most
        ({"background": "transparent"}, "invalid_input", "background"),
        ({"output_format": "gif"}, "invalid_input", "output_format"),
        ({"style": "vivid"}, "invalid_input", "style"),
        ({"model": "gpt-image-2"}, "model_unavailable", "model"),
        ({"model": "gpt-image-2", "quality": "high"}, "model_unavailable", "model"),
        ({"extra_body": {"preset": "nonsense"}}, "invalid_input", "preset"),
        ({"extra_query": {"on_disconnect": "explode"}}, "invalid_input", "on_disconnect"),
        ({"extra_headers": {"Idempotency-Key": "k" * 256}}, "invalid_input", "Idempotency-Key"),
    ],
)
def test_what_we_cannot_do_is_an_error_that_names_it(
    api: Api, generate: Generate, arguments: dict[str, Any], code: str, param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        generate(**arguments).result(20)
    error = raised.value
    assert (error.code, error.param, error.type) == (code, param, "invalid_request_error")
    assert param in error.message
    assert error.request_id == error.response.json()["error"]["correlation_id"]
    assert api.sql("SELECT count(*) FROM jobs") == [(0,)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_job_that_fails_is_an_error_and_is_not_repeated_by_the_client(
    api: Api, pool: ThreadPoolExecutor, client_of: Connect, stream: bool
) -> None:
    client = client_of(api, max_retries=2)

    def call() -> Any:
        answer = client.images.generate(prompt="a red apple", stream=stream)
        return list(answer) if stream else answer

    answer = pool.submit(call)
    job = only_job(api)
    api.finish(job, Status.FAILED, Reason.OOM, OOM)
    with pytest.raises(openai.APIError) as raised:
        answer.result(20)
    error = raised.value
    assert (error.code, error.type) == ("oom", "server_error")
    assert OOM["message"] in error.message
    assert isinstance(error.body, dict)
    assert error.body["details"] == {"peak_bytes": 5, "job_id": job}
    assert api.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_errors_before_the_route_have_the_shape_too(
    stack_environment: dict[str, str], client_of: Connect
) -> None:
    keys = f"shop:{hashlib.sha256(KEY.encode()).hexdigest()}"
    with running_api(stack_environment, api_keys=keys) as api:
        with pytest.raises(openai.AuthenticationError) as unknown:
            client_of(api, "another").images.generate(prompt="x")
        assert (unknown.value.code, unknown.value.type) == ("unauthorized", "authentication_error")
        client = client_of(api, KEY)
        with pytest.raises(openai.NotFoundError) as absent:
            client.post("/images/variations", cast_to=object)
        assert absent.value.code == "not_found"
        with pytest.raises(openai.APIStatusError) as method:
            client.get("/images/generations", cast_to=object)
        assert (method.value.status_code, method.value.code) == (405, "method_not_allowed")
        with pytest.raises(openai.UnprocessableEntityError) as missing:
            client.post("/images/generations", body={}, cast_to=object)
        assert missing.value.param == "prompt"


# A call that cannot be lost -----------------------------------------------------------------------


def test_a_call_that_was_cut_is_repeated_and_gets_the_same_picture(
    api: Api, pool: ThreadPoolExecutor, client_of: Connect
) -> None:
    client = client_of(api, max_retries=2)

    def call(**more: Any) -> Any:
        return client.images.with_raw_response.generate(
            prompt="a red apple", extra_headers={"Idempotency-Key": "order-1"}, **more
        )

    with pytest.raises(openai.APITimeoutError):
        client.with_options(max_retries=0, timeout=0.5).images.generate(
            prompt="a red apple", extra_headers={"Idempotency-Key": "order-1"}
        )
    until(lambda: api.sql("SELECT count(*) FROM jobs") == [(1,)], "the job is there")
    answer = pool.submit(call)
    job = draw(api, ONE)
    for raw in (answer.result(20), call()):
        assert (raw.headers["X-Job-Id"], raw.headers["Idempotent-Replayed"]) == (job, "true")
        assert base64.b64decode(raw.parse().data[0].b64_json) == ONE
    assert httpx.get(call(response_format="url").parse().data[0].url).content == ONE
    with pytest.raises(openai.ConflictError) as other:
        call(n=2)
    assert other.value.code == "conflict"
    assert api.sql("SELECT count(*) FROM jobs") == [(1,)]
    # When their time is over the answer says so, and makes no other picture.
    api.sql("DELETE FROM artifacts")
    with pytest.raises(openai.NotFoundError) as gone:
        call()
    assert gone.value.body["details"]["job_id"] == job  # type: ignore[index]


def test_a_repeated_call_finds_its_picture_though_its_model_is_gone(
    api: Api, pool: ThreadPoolExecutor, client_of: Connect
) -> None:
    """`quality` goes by the model's steps, which a repetition does not need any more."""
    client = client_of(api, max_retries=0)

    def call(key: str = "order-1") -> Any:
        return client.images.with_raw_response.generate(
            prompt="a red apple", quality="low", extra_headers={"Idempotency-Key": key}
        )

    answer = pool.submit(call)
    job = draw(api, ONE)
    assert answer.result(20).headers["X-Job-Id"] == job
    api.sql("UPDATE models SET enabled = false")
    assert call().headers["X-Job-Id"] == job
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        call("order-2")
    assert refused.value.code == "model_unavailable"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("query", [{}, {"on_disconnect": "cancel"}])
def test_a_client_that_leaves_ends_its_job_only_if_it_said_so(
    api: Api, query: dict[str, str], stream: bool
) -> None:
    body = {"prompt": "a red apple", "stream": stream}
    with (
        httpx.Client(base_url=api.base) as client,
        pytest.raises(httpx.ReadTimeout),
        client.stream(
            "POST", "/v1/images/generations", json=body, params=query, timeout=1
        ) as answer,
    ):
        answer.read()
    status = "cancelled" if query else "queued"
    until(
        lambda: "\ndreamforge_waiting_calls 0.0\n" in httpx.get(f"{api.base}/metrics").text,
        "the call has ended",
    )
    until(lambda: api.sql("SELECT status FROM jobs") == [(status,)], f"the job is {status}")
    assert api.sql("SELECT cancel_requested_at IS NULL FROM jobs") == [(not query,)]


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "order-1"}])
def test_an_api_that_stops_says_whether_to_repeat_and_cancels_nothing(
    stack_environment: dict[str, str], pool: ThreadPoolExecutor, headers: dict[str, str]
) -> None:
    with running_api(stack_environment) as api:
        api.install()
        answer = pool.submit(
            api.client.post,
            "/v1/images/generations",
            json={"prompt": "a red apple"},
            params={"on_disconnect": "cancel"},
            headers=headers,
        )
        job = only_job(api)
        api.server.should_exit = True
        cut = answer.result(20)
    assert (cut.status_code, cut.json()["error"]["code"]) == (503, "infra_unavailable")
    assert cut.headers["X-Job-Id"] == job
    # Without a key a second request would be a second job.
    assert cut.headers["X-Should-Retry"] == ("true" if headers else "false")
    with running_api(stack_environment) as again:
        assert again.client.get(f"/v1/jobs/{job}").json()["cancel_requested_at"] is None


def test_a_call_without_a_place_makes_no_job(
    stack_environment: dict[str, str], client_of: Connect
) -> None:
    with running_api(stack_environment, max_streams=1) as api:
        api.install()
        path = f"/v1/jobs/{api.create()}/progress/stream"
        with api.client.stream("GET", path), pytest.raises(openai.RateLimitError) as refused:
            client_of(api, max_retries=0).images.generate(prompt="a red apple")
        assert (refused.value.code, refused.value.type) == ("rate_limited", "rate_limit_error")
        assert refused.value.response.headers["X-Should-Retry"] == "true"
        assert api.sql("SELECT count(*) FROM jobs") == [(1,)]


def test_models_are_listed_for_both(api: Api, client_of: Connect) -> None:
    api.install(name="off")
    api.sql("UPDATE models SET enabled = false WHERE name = 'off'")
    (model,) = client_of(api).models.list().data
    assert (model.id, model.object, model.owned_by) == ("tiny@1", "model", "dreamforge")
    assert model.created > 1_700_000_000
    assert {each["name"] for each in api.client.get("/v1/models").json()["models"]} == {
        "tiny",
        "off",
    }
