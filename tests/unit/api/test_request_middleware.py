"""The request middleware and the envelope, on an application of their own."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Scope

from api import errors
from api.metrics import Metrics
from api.middleware import request
from api.middleware.request import RequestMiddleware
from api.schemas.requests import CreateJob
from shared.errors import InfraUnavailable, NotFound
from shared.settings import Settings

LIMIT_BYTES = 1000
SECRET = "postgresql://df:hunter2@db/secret"


def application(metrics: Metrics | None = None) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    errors.install(app)

    @app.post("/echo")
    async def echo(body: CreateJob) -> dict[str, Any]:
        return {"prompt": body.prompt}

    @app.put("/echo")
    async def replace() -> None:
        pass

    @app.get("/broken/{name}")
    async def broken(name: str) -> None:
        raise RuntimeError(SECRET)

    @app.get("/missing")
    async def missing() -> None:
        raise NotFound("there is no such job")

    @app.get("/away")
    async def away() -> None:
        raise InfraUnavailable("PostgreSQL cannot be reached") from RuntimeError(SECRET)

    @app.get("/ids")
    async def ids(request: Request) -> dict[str, Any]:
        return {"client": request.state.client_request_id, "ours": request.state.correlation_id}

    @app.get("/cut")
    async def cut() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            raise RuntimeError(SECRET)

        return StreamingResponse(body())

    settings = Settings.model_construct()
    app.add_middleware(
        RequestMiddleware,
        metrics=metrics or Metrics(),
        settings=settings,
        max_body_bytes=LIMIT_BYTES,
    )
    return app


def send(method: str, path: str, app: FastAPI | None = None, **options: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        transport = httpx.ASGITransport(app or application())
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **options)

    return anyio.run(main)


def check_envelope(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.status_code == status
    assert set(body) == {"code", "message", "details", "correlation_id"}
    assert body["code"] == code
    assert body["correlation_id"] == response.headers["X-Request-Id"]
    return body


def test_an_unknown_address_and_a_wrong_method_have_the_envelope() -> None:
    check_envelope(send("GET", "/nope"), 404, "not_found")
    wrong = send("DELETE", "/echo")
    check_envelope(wrong, 405, "method_not_allowed")
    assert wrong.headers["Allow"] == "POST, PUT"  # two routes of one address
    check_envelope(send("GET", "/missing/"), 404, "not_found")


def test_our_own_errors_keep_code_and_message() -> None:
    assert check_envelope(send("GET", "/missing"), 404, "not_found")["message"] == (
        "there is no such job"
    )


def test_an_absent_part_says_when_to_come_back_and_leaks_nothing() -> None:
    response = send("GET", "/away")
    check_envelope(response, 503, "infra_unavailable")
    assert response.headers["Retry-After"] == "5"
    assert "hunter2" not in response.text


EVENT_SOURCE = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}


def test_an_event_source_is_told_when_to_come_again_in_place_of_a_refusal_that_passes() -> None:
    """Any status but 200 closes it for good."""
    answer = send("GET", "/away", headers=EVENT_SOURCE)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.text.startswith("retry: 5000\n: infra_unavailable, ")
    assert answer.text.endswith("\n\n")
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("missing", EVENT_SOURCE)
def test_another_client_of_streams_gets_the_refusal(missing: str) -> None:
    headers = {name: value for name, value in EVENT_SOURCE.items() if name != missing}
    check_envelope(send("GET", "/away", headers=headers), 503, "infra_unavailable")


def test_an_event_source_is_refused_for_good_what_does_not_pass() -> None:
    check_envelope(send("GET", "/missing", headers=EVENT_SOURCE), 404, "not_found")


def test_a_handlers_bug_is_internal_and_only_the_log_has_the_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = send("GET", "/broken/x")
    body = check_envelope(response, 500, "internal")
    assert "hunter2" not in response.text
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])
    assert record.__dict__["correlation_id"] == body["correlation_id"]


def test_a_bug_in_the_middle_of_a_stream_cuts_it_instead_of_ending_it() -> None:
    with pytest.raises(RuntimeError):
        send("GET", "/cut")


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"{bad", {}, "not JSON"),
        (b"", {}, "missing"),
        (b"[1]", {}, "JSON object"),
        (b"null", {}, "JSON object"),
        (b"NaN", {}, "JSON object"),
        (b'{"a": \xff}', {}, "not text in UTF-8"),
        (b"[" * 900, {}, "not JSON"),
        (b'{"type": "generate", "prompt": "x"}', {"Content-Type": "text/plain"}, "Content-Type"),
        (b'{"type": "generate", "prompt": "x", "\\ud800": 1}', {}, "lone surrogates"),
    ],
)
def test_a_body_that_is_no_request_is_invalid_input(
    content: bytes, headers: dict[str, str], message: str
) -> None:
    response = send(
        "POST", "/echo", content=content, headers={"Content-Type": "application/json"} | headers
    )
    answer = check_envelope(response, 422, "invalid_input")
    assert message in answer["message"]
    assert answer["details"]["errors"] == [{"field": "", "message": answer["message"]}]


def test_findings_name_field_and_limit_and_never_repeat_the_input() -> None:
    secret = "my secret prompt" * 300
    response = send("POST", "/echo", json={"type": "generate", "prompt": secret[:900], "width": 65})
    body = check_envelope(response, 422, "invalid_input")
    assert body["details"]["errors"] == [
        {"field": "width", "message": "Input should be a multiple of 8", "multipleOf": 8}
    ]
    assert "my secret" not in response.text


def test_a_body_of_a_hundred_wrong_fields_gets_a_bounded_answer() -> None:
    body = {"type": "generate", "prompt": "x"} | {f"{i}": 0 for i in range(100)}
    response = send("POST", "/echo", json=body)
    answer = check_envelope(response, 422, "invalid_input")
    assert len(answer["details"]["errors"]) == errors.MAX_ERRORS
    assert "(and 99 more)" in answer["message"]


def test_a_body_over_the_limit_is_refused_announced_or_not() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    for content in (b" " * 2000, pieces()):
        response = send(
            "POST", "/echo", content=content, headers={"Content-Type": "application/json"}
        )
        answer = check_envelope(response, 413, "payload_too_large")
        assert answer["details"] == {"maximum": LIMIT_BYTES}
        assert answer["message"] == "the request body is over 1000 bytes"


def test_a_body_of_exactly_the_limit_is_read() -> None:
    body = json.dumps({"type": "generate", "prompt": "x"}).encode().ljust(LIMIT_BYTES)
    response = send("POST", "/echo", content=body, headers={"Content-Type": "application/json"})
    assert response.json() == {"prompt": "x"}


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BODY_TIMEOUT_S", 0.01)
    sent: list[Message] = []

    async def main() -> None:
        async def receive() -> Message:
            await anyio.sleep_forever()
            raise AssertionError

        async def collect(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": "/echo",
            "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", b"50"),
            ],
        }
        with anyio.fail_after(5):
            await application()(scope, receive, collect)

    anyio.run(main)
    assert sent[0]["status"] == 422
    assert json.loads(sent[1]["body"])["message"] == "the body did not arrive within 0.01 s"
    assert (b"connection", b"close") in sent[0]["headers"]


def test_the_clients_own_id_is_returned_and_handed_on() -> None:
    response = send("GET", "/ids", headers={"X-Client-Request-Id": "order-4711/2"})
    assert response.headers["X-Client-Request-Id"] == "order-4711/2"
    assert response.json() == {"client": "order-4711/2", "ours": response.headers["X-Request-Id"]}


@pytest.mark.parametrize("client_id", ["", "a b", "x" * 129, "caf\u00e9", "a\tb"])
def test_a_clients_id_that_could_garble_a_log_is_refused(client_id: str) -> None:
    response = send("GET", "/ids", headers={"X-Client-Request-Id": client_id.encode("latin-1")})
    check_envelope(response, 422, "invalid_input")
    assert "X-Client-Request-Id" not in response.headers


def test_every_request_gets_another_id_and_no_answer_is_cached_or_sniffed() -> None:
    first, second = send("GET", "/ids"), send("GET", "/ids")
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert first.headers["Cache-Control"] == "no-store"
    assert first.headers["X-Content-Type-Options"] == "nosniff"


def test_requests_are_counted_by_template_and_never_by_path() -> None:
    metrics = Metrics()
    app = application(metrics)
    for path in ("/broken/one", "/broken/two", "/no/such/path"):
        send("GET", path, app)
    text = metrics.render().decode()
    assert (
        'dreamforge_http_requests_total{method="GET",route="/broken/{name}",status="500"} 2.0'
        in text
    )
    assert 'route="unmatched",status="404"} 1.0' in text
    assert "/broken/one" not in text
