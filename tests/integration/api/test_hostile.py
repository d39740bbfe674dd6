"""What people send who mean no good, or whose programs are broken, over a real socket.

Everything gets a clear 4xx with our envelope, also what is no HTTP at all; nothing of it is stored,
and the process stays healthy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from tests.support.api_harness import BODY, Api, running_api
from tests.support.infrastructure import Infrastructure
from tests.support.raw_http import connection, enveloped, rest, talk

from api.middleware import http_protocol, request
from shared.limits import MAX_BODY_BYTES

# Hebrew and Arabic, with an override, an isolate and a mark.
RIGHT_TO_LEFT = "\u202e\u05e9\u05dc\u05d5\u05dd\u202c \u200f \u0645\u0631 \u2066x\u2069"


@pytest.fixture(scope="module")
def running(stack: Infrastructure) -> Iterator[Api]:
    """One process for the whole list: what harms it shows in whatever comes next."""
    with running_api(stack.environment) as api:
        yield api


@pytest.fixture
def api(running: Api, database_url: str) -> Api:
    running.install()
    return running


def refused(api: Api, answer: httpx.Response, status: int = 422) -> None:
    body = answer.json()
    assert answer.status_code == status, answer.text
    assert set(body) == {"code", "message", "details", "correlation_id"}
    assert body["correlation_id"] == answer.headers["X-Request-Id"]
    assert "Location" not in answer.headers
    assert len(answer.content) < 10_000
    assert "Traceback" not in answer.text and "/src/" not in answer.text
    unharmed(api)


def unharmed(api: Api) -> None:
    assert api.client.get("/healthz").json() == {"status": "ok"}
    for table in ("jobs", "steps", "events", "artifacts"):
        assert api.sql(f"SELECT count(*) FROM {table}") == [(0,)], table


def field(name: str, value: str) -> bytes:
    """A create request whose field `name` is this text, unchecked."""
    rest = {key: value for key, value in BODY.items() if key != name}
    return f'{json.dumps(rest)[:-1]}, "{name}": {value}}}'.encode()


BODIES = {
    "an integer of 400 digits": field("seed", "9" * 400),
    "an integer beyond Python's own limit": field("seed", "9" * 100_000),
    "an integer beyond 64 bits": field("steps", str(2**64)),
    "a float beyond every float": field("guidance", "1e999"),
    "a float that is no integer any more": field("width", "1e300"),
    "a field twice": field("count", '1, "count": 2'),
    "a field of a field twice": field("chain", '{"upscale": {"scale": 2, "scale": 4}}'),
    "NaN": field("guidance", "NaN"),
    "Infinity": field("timeout_s", "Infinity"),
    "minus Infinity": field("guidance", "-Infinity"),
    "a timeout of ten thousand years": field("timeout_s", "1e12"),
    "arrays in arrays": b"[" * 500_000,
    "objects in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    # Python 3.13 reads 5,000 levels, which are then no chain.
    "a deep field": field("chain", '{"upscale":' * 50_000 + "1" + "}" * 50_000),
    "half a surrogate pair": field("prompt", r'"\ud83c"'),
    "a pair in the wrong order": field("prompt", r'"\udf4e\ud83c"'),
    "half a pair in a name": field(r"\ud800", "1"),
    "half a pair in an id": field("model_id", r'"\ud800"'),
    "NUL": field("prompt", r'"a\u0000b"'),
    "NUL as it is": field("prompt", '"a\0b"'),
    "NUL in an id": field("model_id", r'"tiny\u0000"'),
    "a newline in a string": field("prompt", '"a\nb"'),
    "bytes that are no UTF-8": b'{"type": "generate", "prompt": "\xff\xfe"}',
    "an overlong slash": b'{"type": "generate", "prompt": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"type": "generate", "prompt": "\xed\xa0\x80"}',
    "an emoji too many": field("prompt", json.dumps("🍎" * 4097)),
    "a path for a model": field("model_id", '"../../../etc/passwd"'),
    "a path for a preset": field("preset", '"../../../etc/passwd"'),
    "a statement for a model": field("model_id", '"x\'; DROP TABLE jobs; --"'),
    "ten thousand fields": json.dumps(BODY | {f"f{i}": 0 for i in range(10_000)}).encode(),
    "the prototype": field("__proto__", '{"count": 100}'),
    "two values": b'{"type": "generate", "prompt": "x"} {}',
    "a form": b"type=generate&prompt=x",
}


# How the message about each begins.
MESSAGES = {
    "an integer of 400 digits": "seed: Input should be less than",
    "an integer beyond Python's own limit": "a whole number in the body has too many digits",
    "an integer beyond 64 bits": "steps: Input should be less than or equal to 200",
    "a float beyond every float": "guidance: Input should be a finite number",
    "a float that is no integer any more": "width: Input should be a valid integer",
    "a field twice": "count: is there more than once",
    "a field of a field twice": "scale: is there more than once",
    "NaN": "guidance: Input should be a finite number",
    "Infinity": "timeout_s: Input should be a finite number",
    "minus Infinity": "guidance: Input should be a finite number",
    "a timeout of ten thousand years": "timeout_s: at most",
    "arrays in arrays": "the body is nested too deeply",
    "objects in objects": "the body is nested too deeply",
    "a deep field": "the body is nested too deeply",
    "half a surrogate pair": "prompt: must not contain lone surrogates",
    "a pair in the wrong order": "prompt: must not contain lone surrogates",
    "half a pair in a name": "text must not contain lone surrogates",
    "half a pair in an id": "model_id: must not contain lone surrogates",
    "NUL": "prompt: must not contain NUL characters",
    "NUL as it is": "the body is not JSON: Invalid control character at character 33",
    "NUL in an id": "model_id: must not contain NUL characters",
    "a newline in a string": "the body is not JSON: Invalid control character at character 33",
    "bytes that are no UTF-8": "the body is not text in UTF-8",
    "an overlong slash": "the body is not text in UTF-8",
    "a surrogate in UTF-8": "prompt: must not contain lone surrogates",
    "an emoji too many": "prompt: must have at most 4096 characters",
    "a path for a model": "model_id: no such model",
    "a path for a preset": "unknown preset",
    "a statement for a model": "model_id: no such model",
    "ten thousand fields": "f0: is not known here (and 9999 more)",
    "the prototype": "__proto__: is not known here",
    "two values": "the body is not JSON: Extra data at character 36",
    "a form": "the body is not JSON: Expecting value at character 0",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_refused_and_leaves_nothing(api: Api, name: str) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    answer = api.client.post("/v1/jobs", content=BODIES[name], headers=headers)
    refused(api, answer)
    assert answer.json()["message"].startswith(MESSAGES[name])


@pytest.mark.parametrize(
    "name", ["arrays in arrays", "bytes that are no UTF-8", "two values", "a form"]
)
def test_a_route_that_reads_its_body_itself_refuses_it_in_the_same_words(
    api: Api, name: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = api.client.post("/v1/images/edits", content=BODIES[name], headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith(MESSAGES[name])


@pytest.mark.parametrize("prompt", ["🍎" * 4096, RIGHT_TO_LEFT, "\u0085\ufeff\uffff\U0010ffff"])
def test_unusual_text_that_is_text_is_kept_as_it_is(api: Api, prompt: str) -> None:
    job = api.create(prompt=prompt)
    assert api.sql("SELECT params->>'prompt' FROM steps") == [(prompt,)]
    assert api.client.get(f"/v1/jobs/{job}").status_code == 200


HEADERS = {
    "a key that ends the line": b"Idempotency-Key: a\rb",
    "a key with NUL": b"Idempotency-Key: a\0b",
    "a key in Latin-1": b"Idempotency-Key: caf\xe9",
    "an empty key": b"Idempotency-Key: ",
    "a key of 256 characters": b"Idempotency-Key: " + b"k" * 256,
    "an id that ends the line": b"X-Client-Request-Id: a\rSet-Cookie: x=1",
    "an id with an escape sequence": b"X-Client-Request-Id: \x1b[2J",
    "an id of a kilobyte": b"X-Client-Request-Id: " + b"i" * 1024,
    "a folded line": b"X-Client-Request-Id: a\r\n Set-Cookie: x=1",
    "two idempotency keys": b"Idempotency-Key: a\r\nIdempotency-Key: b",
    "two ids of the client's": b"X-Client-Request-Id: a\r\nX-Client-Request-Id: b",
    "a length that is none": b"Content-Length: -1",
    "two lengths": b"Content-Length: 10\r\nContent-Length: 11",
    "a length and chunks": b"Transfer-Encoding: chunked, identity",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_and_never_given_back(api: Api, name: str) -> None:
    body = json.dumps(BODY).encode()
    header = HEADERS[name]
    if b"-Length" not in header and b"Encoding" not in header:
        header += b"\r\nContent-Length: %d" % len(body)
    answer = talk(
        api.base,
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\n" + header + b"\r\n\r\n" + body,
    )
    enveloped(answer, 400, 422)
    assert b"set-cookie" not in answer.lower()
    assert b"\x1b" not in answer
    unharmed(api)


PATHS = [
    b"/v1/jobs/../../../etc/passwd",
    b"/v1/jobs/..%2f..%2f..%2fetc%2fpasswd/artifacts",
    b"/v1/jobs/%2e%2e/%2e%2e/etc/passwd",
    b"/v1/jobs/..%5c..%5cwindows/logs",
    b"/v1/jobs/%c0%ae%c0%ae%2f/progress",
    b"/v1/jobs/%00/progress/stream",
    b"/v1/jobs/%0d%0aSet-Cookie:%20x=1",
    b"/v1/jobs/%ff%fe",
    b"/v1/jobs/%ed%a0%80/logs",
    b"/v1/jobs/%zz",
    b"/v1/jobs/;/../metrics",
    b"/v1/jobs/%f0%9f%8d%8e/artifacts",
    b"/v1/models/..%2f..%2fetc%2fpasswd",
    b"/v1/models/%ed%a0%80",
    b"/v1/models/tiny%00",
    b"/v1/models/" + b"x" * 20_000,
    b"//v1/jobs",
    b"/V1/JOBS",
]


@pytest.mark.parametrize("path", PATHS)
def test_tricks_in_a_path_find_nothing(api: Api, path: bytes) -> None:
    answer = talk(
        api.base, b"GET " + path + b" HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n"
    )
    enveloped(answer, 400, 404)
    assert b"root:" not in answer
    assert b"set-cookie" not in answer.lower()
    unharmed(api)


def test_a_body_of_a_hundred_megabytes_is_refused_without_being_kept(api: Api) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1 << 20)

    answer = api.client.post("/v1/jobs", content=pieces())
    refused(api, answer, status=413)
    assert answer.json()["details"] == {"maximum": MAX_BODY_BYTES}


def test_a_body_that_trickles_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BODY_TIMEOUT_S", 0.05)
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = talk(api.base, head + b'Content-Length: 1000\r\n\r\n{"type":')  # and it waits
    assert enveloped(answer, 422)["message"] == "the body did not arrive within 0.05 s"
    unharmed(api)


def test_a_body_that_comes_byte_by_byte_gets_no_more_time_than_another(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte arrives in time; the whole never would."""
    monkeypatch.setattr(request, "BODY_TIMEOUT_S", 0.5)
    body = json.dumps(BODY).encode().ljust(100_000)
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    began = time.monotonic()
    with connection(api.base) as connected:
        connected.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        connected.settimeout(0.02)  # the pause between two bytes
        answer = b""
        for place in range(len(body)):
            with suppress(TimeoutError):
                answer = connected.recv(1 << 16)
                break
            connected.sendall(body[place : place + 1])
        connected.settimeout(20)
        answer += rest(connected)
    assert enveloped(answer, 422)["message"] == "the body did not arrive within 0.5 s"
    assert 0.5 <= time.monotonic() - began < 10
    unharmed(api)


NO_HTTP = {
    "words": b"hello there\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "bytes in a path": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "chunks that are none": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "a length and chunks": b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v1/jobs HTTP/1.0\r\nHost: localhost\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    "lines that end with LF": b"GET /healthz HTTP/1.1\nHost: localhost\n\n",
    "a version that is none": b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_gets_the_envelope_too(api: Api, name: str) -> None:
    enveloped(talk(api.base, NO_HTTP[name]), 400)
    unharmed(api)


def test_what_follows_a_whole_request_and_is_no_http_ends_the_connection(api: Api) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    whole, second = talk(api.base, first + b"hello there\r\n\r\n").split(b'{"status":"ok"}')
    assert whole.startswith(b"HTTP/1.1 200 ")
    enveloped(second, 400)


@pytest.mark.parametrize("part", [b"", b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: loc"])
def test_a_head_that_does_not_arrive_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    assert talk(api.base, part) == b""


def test_the_head_of_a_second_request_that_does_not_arrive_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.5)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connection(api.base) as connected:
        connected.sendall(whole)
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += connected.recv(1 << 16)
        connected.sendall(whole[:10])
        assert connected.recv(1) == b""


def test_a_connection_that_is_idle_after_an_answer_outlives_those_of_proxies(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head's time begins with its first byte; 75 s is what proxies keep a connection."""
    assert api.server.config.timeout_keep_alive > 75
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connection(api.base) as connected:
        for _ in range(3):
            connected.sendall(whole)
            answer = b""
            while not answer.endswith(b'{"status":"ok"}'):
                block = connected.recv(1 << 16)
                assert block, "it was closed"
                answer += block
            late = time.monotonic() + 0.2
            while time.monotonic() < late:  # longer than a head may take
                api.client.get("/healthz")


def test_an_answer_that_takes_longer_than_a_head_may_is_not_cut(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.05)
    job = api.create()
    with api.client.stream("GET", f"/v1/jobs/{job}/progress/stream") as stream:
        lines = stream.iter_lines()
        next(line for line in lines if "job.created" in line)
        api.progress(job, 0.1)  # written, read, and sent: five times as long at the least
        next(line for line in lines if line.startswith("event: progress"))


def test_a_name_that_is_twice_in_a_query_is_refused(api: Api) -> None:
    refused(api, api.client.get("/v1/jobs?limit=1&limit=2"))
