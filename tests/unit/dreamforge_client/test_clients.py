"""Both clients, against an API that fails in every way before it answers."""

from __future__ import annotations

import hashlib
import importlib.resources
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import dreamforge_client
import shared
from dreamforge_client import (
    AsyncClient,
    Client,
    ClientError,
    JobUnsuccessful,
    Refused,
    Unexpected,
    Unreachable,
    exchange,
)

BASE = "http://api:8001"
JOB = "11111111-1111-1111-1111-111111111111"
PICTURE = b"a picture"
Answer = httpx.Response | httpx.TransportError
AWAY = httpx.ConnectError("connection refused")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(exchange, "CREATE_PAUSES_S", (0.001, 0.001))


def job(status: str, **more: Any) -> httpx.Response:
    return httpx.Response(200, json={"id": JOB, "status": status, "error": None} | more)


def refusal(status: int, code: str, after: str | None = None) -> httpx.Response:
    headers = {} if after is None else {"Retry-After": after}
    body = {"code": code, "message": "no", "details": {}}
    return httpx.Response(status, json=body, headers=headers)


def events(*numbers: int) -> httpx.Response:
    text = "".join(f"id: {n}\ndata: {json.dumps({'seq': n, 'code': 'x'})}\n\n" for n in numbers)
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


class Api:
    """Answers in order; keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.TransportError):
            raise answer
        # A response can be read by one client only.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


Use = Callable[[Any], Any]


def call(kind: str, api: Api, use: Use) -> Any:
    """What `use` of a client gives, of either kind."""
    if kind == "sync":
        with Client(
            BASE, http=httpx.Client(base_url=BASE, transport=httpx.MockTransport(api))
        ) as client:
            result = use(client)
            return list(result) if isinstance(result, Iterator) else result

    async def main() -> Any:
        http = httpx.AsyncClient(base_url=BASE, transport=httpx.MockTransport(api))
        async with AsyncClient(BASE, http=http) as client:
            result = use(client)
            if isinstance(result, Awaitable):
                return await result
            return [each async for each in result]

    return anyio.run(main)


both = pytest.mark.parametrize("kind", ["sync", "async"])


@both
def test_a_create_is_sent_again_with_the_same_key_until_it_is_answered(kind: str) -> None:
    api = Api(
        AWAY,
        httpx.Response(502, text="a proxy"),
        httpx.Response(202, json={"job": {"id": JOB, "status": "queued"}}),
    )
    created = call(kind, api, lambda client: client.create("a red apple", seed=42, steps=None))
    assert (created.id, created.status, created.ended) == (JOB, "queued", False)
    keys = {request.headers["Idempotency-Key"] for request in api.requests}
    assert (len(api.requests), len(keys)) == (3, 1)
    assert json.loads(api.requests[0].content) == {
        "type": "generate",
        "prompt": "a red apple",
        "seed": 42,
    }


@both
@pytest.mark.parametrize(
    ("answers", "error", "requests"),
    [
        ([AWAY] * 3, Unreachable, 3),
        ([refusal(503, "infra_unavailable")] * 3, Refused, 3),
        ([refusal(429, "rate_limited")], Refused, 1),
        ([refusal(422, "invalid_input")], Refused, 1),
        ([httpx.Response(404, text="another server")], Unexpected, 1),
        ([httpx.Response(200, text="<html>")], Unexpected, 1),
    ],
)
def test_a_create_is_given_up_where_another_one_is_no_use(
    kind: str, answers: list[Answer], error: type[Exception], requests: int
) -> None:
    api = Api(*answers)
    with pytest.raises(error):
        call(kind, api, lambda client: client.create("x"))
    assert len(api.requests) == requests


@both
def test_a_wait_outlives_an_api_that_restarts(kind: str) -> None:
    api = Api(
        job("queued"),
        AWAY,
        httpx.Response(504),
        refusal(503, "infra_unavailable"),
        refusal(429, "rate_limited"),
        job("running"),
        job("succeeded"),
    )
    assert call(kind, api, lambda client: client.result(JOB)).status == "succeeded"
    assert {request.url.params["wait"] for request in api.requests} == {"60"}


@both
def test_a_wait_with_an_end_gives_the_job_as_it_is_then(kind: str) -> None:
    assert call(kind, Api(job("running")), lambda client: client.wait(JOB, 0)).ended is False


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What both clients slept, on a clock that nothing else moves."""
    slept: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0 + sum(slept))
    monkeypatch.setattr(time, "sleep", slept.append)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("dreamforge_client.async_client.anyio.sleep", sleep)
    return slept


@both
@pytest.mark.parametrize(
    ("use", "end"),
    [
        (lambda client: client.wait(JOB), job("succeeded")),
        (lambda client: client.stream(JOB), httpx.Response(204)),
    ],
    ids=["wait", "stream"],
)
def test_an_api_is_asked_again_when_it_has_said(
    kind: str, use: Use, end: httpx.Response, pauses: list[float]
) -> None:
    api = Api(refusal(429, "rate_limited", "9"), refusal(503, "infra_unavailable", "5"), end)
    call(kind, api, use)
    assert pauses == [9, 5]


@both
def test_a_pause_of_hours_is_left_to_the_caller(kind: str, pauses: list[float]) -> None:
    api = Api(refusal(429, "rate_limited", "7200"))
    with pytest.raises(Refused) as raised:
        call(kind, api, lambda client: client.wait(JOB))
    assert (raised.value.retry_after_s, raised.value.passes, pauses) == (7200, True, [])


@both
def test_a_wait_with_an_end_asks_for_no_longer_and_pauses_no_longer(
    kind: str, pauses: list[float]
) -> None:
    api = Api(job("running"), job("running"))
    assert call(kind, api, lambda client: client.wait(JOB, 0.5)).ended is False
    assert pauses == [0.5]
    assert [each.url.params["wait"] for each in api.requests] == ["0", "0"]


@both
def test_a_wait_with_an_end_raises_what_keeps_the_api_from_answering_by_then(
    kind: str, pauses: list[float]
) -> None:
    api = Api(*[AWAY] * 20_000)
    with pytest.raises(Unreachable):
        call(kind, api, lambda client: client.wait(JOB, 2))
    assert 1 < sum(pauses) <= 2
    read_s = [each.extensions["timeout"]["read"] for each in api.requests]
    assert max(read_s) == 2 + exchange.LATE_S


@both
@pytest.mark.parametrize(("timeout_s", "wait"), [(float("inf"), "60"), (-1, "0"), (90.5, "60")])
def test_a_wait_takes_every_number_of_seconds(kind: str, timeout_s: float, wait: str) -> None:
    api = Api(job("succeeded"))
    call(kind, api, lambda client: client.wait(JOB, timeout_s))
    assert api.requests[0].url.params["wait"] == wait
    with pytest.raises(ValueError, match="timeout_s"):
        call(kind, Api(), lambda client: client.wait(JOB, float("nan")))


@both
def test_a_job_that_failed_is_an_error_that_says_why(kind: str) -> None:
    api = Api(job("failed", error={"code": "oom", "message": "not enough memory"}))
    with pytest.raises(JobUnsuccessful, match=r"not enough memory \(oom\)") as raised:
        call(kind, api, lambda client: client.result(JOB))
    assert raised.value.job.status == "failed"


@both
def test_a_stream_goes_on_behind_the_last_event_that_came(kind: str) -> None:
    api = Api(
        events(1, 2),
        AWAY,
        events(3),
        refusal(429, "rate_limited"),
        httpx.Response(204),
    )
    seen = call(kind, api, lambda client: client.stream(JOB))
    assert [event["seq"] for event in seen] == [1, 2, 3]
    last = [request.headers.get("Last-Event-ID") for request in api.requests]
    assert last == [None, "2", "2", "3", "3"]


@both
def test_a_preview_has_a_code_like_every_event_and_no_number(kind: str) -> None:
    shown = httpx.Response(
        200,
        text='event: preview\ndata: {"image":"data:"}\n\nid: 1\ndata: {"seq":1,"code":"x"}\n\n',
        headers={"Content-Type": "text/event-stream"},
    )
    api = Api(shown, httpx.Response(204))
    seen = call(kind, api, lambda client: client.stream(JOB))
    assert [event["code"] for event in seen] == ["preview", "x"]


@both
def test_a_stream_of_no_job_ends_with_the_refusal(kind: str) -> None:
    with pytest.raises(Refused) as raised:
        call(kind, Api(refusal(404, "not_found")), lambda client: client.stream(JOB))
    assert raised.value.code == "not_found"


def artifact(step: str, item_index: int, url: str) -> dict[str, Any]:
    return {
        "step": step,
        "item_index": item_index,
        "seed": 7,
        "format": "png",
        "width": 64,
        "height": 64,
        "sha256": hashlib.sha256(PICTURE).hexdigest(),
        "url": url,
    }


@both
def test_of_each_item_the_last_steps_picture_counts(kind: str) -> None:
    rows = [artifact("generate", 0, "a"), artifact("generate", 1, "b"), artifact("up", 0, "c")]
    api = Api(httpx.Response(200, json={"artifacts": rows}))
    found = call(kind, api, lambda client: client.pictures(JOB))
    assert [picture.url for picture in found] == ["c", "b"]
    assert "url" not in repr(found[0])  # it is a key to the picture


@both
def test_a_saved_picture_replaces_no_other(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every job has an item 0, and a seed is often used again."""
    content = b"first"

    def download(_: Any, url: str, path: Path, *, sha256: str) -> None:
        path.write_bytes(content)

    async def download_later(_: Any, url: str, path: Path, *, sha256: str) -> None:
        path.write_bytes(content)

    monkeypatch.setattr(Client, "download", download)
    monkeypatch.setattr(AsyncClient, "download", download_later)

    def saved() -> str:
        api = Api(httpx.Response(200, json={"artifacts": [artifact("generate", 0, "a")]}))
        (path,) = call(kind, api, lambda client: client.save(JOB, tmp_path))
        return str(path.relative_to(tmp_path))

    assert saved() == "0_7.png"
    content = b"second"
    assert [saved(), saved()] == ["0_7-2.png", "0_7-2.png"]
    assert (tmp_path / "0_7.png").read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0_7-2.png", "0_7.png"]


@both
def test_usage_is_the_rows_of_every_page(kind: str) -> None:
    row = {
        "user": "u", "model": None, "pictures": 1, "run_seconds": 1.5, "wait_seconds": 0,
        "device_byte_seconds": 2, "jobs": {"succeeded": 1, "failed": 0, "cancelled": 0},
    }  # fmt: skip
    first, second = ({"day": day, **row} for day in ("2026-01-31", "2026-02-01"))
    pages = [{"usage": [day], "next_cursor": more} for day, more in ((first, "x"), (second, None))]
    api = Api(*(httpx.Response(200, json=page) for page in pages))
    since = date(2026, 1, 31)
    rows = call(kind, api, lambda client: client.usage(since=since, tag="project=shop"))
    assert rows == [first, second]
    asked = {"from": "2026-01-31", "tag": "project=shop"}
    assert [dict(each.url.params) for each in api.requests] == [asked, asked | {"cursor": "x"}]


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    def methods(kind: type[Any]) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(method).parameters)
            for name, method in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name != "lines"
        }

    assert methods(Client) == methods(AsyncClient)


@pytest.mark.parametrize("key", ["k\n1", "schl\u00fcssel"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="api_key"):
        Client(BASE, key)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("base", ["127.0.0.1:8001", "", "ftp://api", "http://api:99999"])
def test_an_address_that_is_none_is_refused_before_anything_is_sent(
    kind: type[Client | AsyncClient], base: str
) -> None:
    with pytest.raises(ValueError, match="base_url"):
        kind(base)


@both
@pytest.mark.parametrize("key", ["order\n4711", "schl\u00fcssel"])
def test_an_idempotency_key_that_no_header_can_carry_is_no_api_that_is_away(
    kind: str, key: str
) -> None:
    api = Api()
    with pytest.raises(ValueError, match="key"):
        call(kind, api, lambda client: client.create("x", key=key))
    assert api.requests == []


@both
@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (AWAY, True),
        (httpx.Response(429, text="a proxy"), True),
        (refusal(429, "rate_limited"), True),
        (refusal(503, "infra_unavailable"), True),
        (refusal(404, "not_found"), False),
        (httpx.Response(404, text="another server"), False),
    ],
)
def test_every_error_says_whether_the_same_request_may_succeed_later(
    kind: str, answer: Answer, passes: bool
) -> None:
    with pytest.raises(ClientError) as raised:
        call(kind, Api(answer), lambda client: client.job(JOB))
    assert raised.value.passes is passes


@pytest.mark.parametrize(("status", "passes"), [(503, True), (429, True), (403, False)])
def test_a_store_that_is_away_for_a_moment_passes(status: int, passes: bool) -> None:
    with pytest.raises(ClientError) as raised:
        exchange.check_stored(httpx.Response(status), "http://store:9000/b/k?secret", "0_1.png")
    assert raised.value.passes is passes
    assert "secret" not in str(raised.value)


def test_the_types_of_the_client_reach_the_code_that_uses_it() -> None:
    for package in (dreamforge_client, shared):
        assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_an_upload_is_a_form_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PICTURE)
    for kind in ("sync", "async"):
        api = Api(AWAY, httpx.Response(201, json={"input": {"id": JOB}}))
        sent = call(kind, api, lambda client: client.upload(tmp_path / "photo.jpg"))
        assert sent == JOB
        body = api.requests[-1].read()
        assert b'name="file"; filename="photo.jpg"' in body
        assert PICTURE in body
