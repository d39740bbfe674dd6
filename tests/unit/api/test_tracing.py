"""Which requests are traced, who decides, and what their spans say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from tests.support.spans import Recorder, Seen, only

from api import errors
from api.metrics import Metrics
from api.middleware.request import RequestMiddleware
from api.middleware.tracing import TracingMiddleware, traceparent_of
from shared.auth import parse_api_keys
from shared.settings import Settings
from shared.telemetry.traceparent import parse

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
KEYS = "app:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
# Its low half is zero: a sampler that compares it with its ratio would take it at any ratio.
CRAFTED = f"00-{'1' * 16}{'0' * 15}1-{CALLER}-01"

Ask = tuple[str, str, dict[str, str]]


def always() -> float:
    return 0.0


def never() -> float:
    return 0.999


def traced(
    *requests: Ask, ratio: float = 0.5, draw: Callable[[], float] = always, keys: str = ""
) -> tuple[list[Seen], list[httpx.Response]]:
    """The spans of these requests, and their answers."""
    recorder = Recorder()
    app = FastAPI(redirect_slashes=False)
    errors.install(app)

    @app.post("/v1/jobs")
    async def create(request: Request) -> dict[str, Any]:
        request.state.span_attributes = {"dreamforge.job.id": "the-job"}
        return {"kept": traceparent_of(request)}

    @app.get("/v1/jobs/{job_id}")
    async def look(job_id: str, request: Request) -> dict[str, Any]:
        return {"kept": traceparent_of(request)}

    @app.post("/v1/broken")
    async def broken() -> None:
        raise RuntimeError

    @app.get("/v1/jobs/{job_id}/progress/stream")
    async def stream(job_id: str) -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b""

        return StreamingResponse(body())

    @app.get("/healthz")
    async def healthz() -> None:
        pass

    settings = Settings.model_construct(api_keys=parse_api_keys(keys))
    app.add_middleware(TracingMiddleware, tracer=lambda: recorder.tracer, ratio=ratio, draw=draw)
    app.add_middleware(RequestMiddleware, metrics=Metrics(), settings=settings)

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.request(m, path, headers=headers) for m, path, headers in requests]

    answers = anyio.run(main)
    return recorder.spans(), answers


def test_the_request_that_makes_a_job_is_the_root_of_what_is_kept_with_it() -> None:
    spans, (answer,) = traced(("POST", "/v1/jobs", {}))
    root = only(spans, "POST /v1/jobs")
    assert (root.parent, root.kind, root.failed) == ("", "server", False)
    kept = parse(answer.json()["kept"])
    assert kept is not None
    assert (kept.trace_id, kept.span_id, kept.sampled) == (root.trace_id, root.span_id, True)
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/jobs",
        "http.response.status_code": 200,
        "dreamforge.job.id": "the-job",
        "dreamforge.correlation_id": answer.headers["X-Request-Id"],
    }


def test_a_callers_trace_is_joined() -> None:
    spans, (answer,) = traced(("POST", "/v1/jobs", {"traceparent": SAMPLED}))
    (span,) = spans
    assert (span.trace_id, span.parent) == (TRACE, CALLER)
    assert answer.json()["kept"] == f"00-{TRACE}-{span.span_id}-01"


@pytest.mark.parametrize("headers", [{}, {"traceparent": SAMPLED}, {"traceparent": CRAFTED}])
def test_nothing_that_a_caller_sends_makes_more_than_its_share_traced(
    headers: dict[str, str],
) -> None:
    spans, _ = traced(("POST", "/v1/jobs", headers), ratio=0.5, draw=never)
    assert spans == []


def test_a_caller_can_ask_not_to_be_traced_and_still_find_our_lines() -> None:
    spans, (answer,) = traced(("POST", "/v1/jobs", {"traceparent": NOT_SAMPLED}), ratio=1)
    assert spans == []
    assert answer.json()["kept"] == NOT_SAMPLED


def test_what_was_not_drawn_is_kept_as_not_sampled() -> None:
    _, (answer,) = traced(("POST", "/v1/jobs", {"traceparent": SAMPLED}), draw=never)
    assert answer.json()["kept"] == NOT_SAMPLED
    _, (answer,) = traced(("POST", "/v1/jobs", {}), draw=never)
    assert answer.json()["kept"] is None


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_ends_of_the_ratio_are_none_and_all(ratio: float) -> None:
    requests: Ask = ("POST", "/v1/jobs", {})
    assert len(traced(*[requests] * 3, ratio=ratio, draw=never)[0]) == 3 * ratio
    assert len(traced(requests, ratio=ratio, draw=always)[0]) == ratio


def test_a_read_joins_a_trace_and_begins_none() -> None:
    spans, _ = traced(
        ("GET", "/v1/jobs/1", {}), ("GET", "/v1/jobs/2", {"traceparent": SAMPLED}), ratio=1
    )
    (span,) = spans
    assert (span.name, span.trace_id) == ("GET /v1/jobs/{job_id}", TRACE)
    assert span.attributes["dreamforge.job.id"] == "2"


def test_streams_and_probes_are_not_traced_even_if_a_caller_wants_it() -> None:
    headers = {"traceparent": SAMPLED}
    requests: list[Ask] = [
        ("GET", "/v1/jobs/1/progress/stream", headers),
        ("GET", "/healthz", headers),
    ]
    assert traced(*requests, ratio=1)[0] == []


def test_who_has_no_key_makes_no_span() -> None:
    keyed = {"traceparent": SAMPLED, "Authorization": "Bearer secret"}
    requests: list[Ask] = [
        ("POST", "/v1/jobs", {"traceparent": SAMPLED}),
        ("POST", "/v1/jobs", keyed),
    ]
    spans, answers = traced(*requests, ratio=1, keys=KEYS)
    assert [answer.status_code for answer in answers] == [401, 200]
    assert len(spans) == 1


def test_a_handler_that_breaks_is_an_error_and_a_refusal_is_not() -> None:
    spans, answers = traced(("POST", "/v1/broken", {}), ("POST", "/v1/nothing", {}), ratio=1)
    assert [answer.status_code for answer in answers] == [500, 404]
    broken, refused = only(spans, "POST /v1/broken"), only(spans, "POST unmatched")
    assert (broken.failed, broken.attributes["error.type"]) == (True, "RuntimeError")
    assert (refused.failed, refused.attributes["http.response.status_code"]) == (False, 404)


def test_the_requests_log_line_names_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "api.middleware.request"):
        traced(("POST", "/v1/jobs", {"traceparent": SAMPLED}), ("POST", "/v1/jobs", {}), ratio=1)
        traced(("POST", "/v1/jobs", {}), draw=never)
    trace_ids = [vars(record).get("trace_id") for record in caplog.records]
    assert trace_ids[0] == TRACE and len(str(trace_ids[1])) == 32 and trace_ids[2] is None
