"""What both clients do alike, without sending anything: requests, checks of answers, patience."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from httpx_sse import ServerSentEvent, SSEError

from dreamforge_client import answers
from dreamforge_client.errors import ClientError, Refused, Unexpected, Unreachable
from dreamforge_client.shapes import Event, Job
from shared.addresses import check_http
from shared.reasons import reason
from shared.retry import backoff, within
from shared.typed_json import Mismatch, parse, typed

T = TypeVar("T")

DEFAULT_BASE = "http://127.0.0.1:8001"
TIMEOUT = httpx.Timeout(30.0, connect=3.0)
# Before each repetition of a create, unless `Retry-After` asks for more. An API that restarts is
# back after some seconds; with a mistyped address nothing is gained by a longer wait.
CREATE_PAUSES_S = (0.5, 1.0, 2.0, 4.0)
MOST_PAUSE_S = 120.0  # who is asked to wait longer is told so
# The API sends a comment every 15 s: three of them missing mean a dead connection.
SILENCE_S = 45.0
FIRST_PAUSE_S = 0.1
GIVE_UP_S = 60.0
# As long as the API lets a call wait, and how much later its answer may arrive.
WAIT_S = 60
ANSWER_S = 30.0
# The same for a wait that has an end, which the caller counts on.
LATE_S = 5.0
CHUNK_BYTES = 1 << 16
PREVIEW = "preview"
INPUTS, FILE_FIELD = "/v1/inputs", "file"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
NOT_OURS = "does not answer as Dream Forge's API"
# What a proxy answers while the server behind it starts again or has too much to do, and what a
# store answers then; the body is anything.
_PASSING_STATUSES = {429, 502, 503, 504}


class NoHeader(ValueError):
    """A text that no header can carry."""


def checked_base(base_url: str) -> str:
    """The address of an API. Raises `ValueError` for a text that is none."""
    try:
        check_http(base_url, f"like {DEFAULT_BASE}")
    except ValueError as error:
        raise ValueError(f"base_url: {error}") from None
    return base_url


def key_headers(key: str | None) -> dict[str, str]:
    """The `Idempotency-Key`. Raises `NoHeader`."""
    if key and not _is_header(key):
        raise NoHeader("key: it has characters that no header can carry")
    return {"Idempotency-Key": key} if key else {}


def _is_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def options(base_url: str, api_key: str | None) -> dict[str, Any]:
    """The options of an httpx client for this API. Raises `ValueError` for a key that is none."""
    if api_key and not _is_header(api_key):
        raise ValueError("api_key: it has characters that no header can carry")
    return {
        "base_url": base_url,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "timeout": TIMEOUT,
        # Requests to our own host do not go through a proxy that is set for other hosts.
        "trust_env": urlsplit(base_url).hostname not in LOOPBACK,
    }


def create_body(prompt: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a create; a field that is None is left to the API's defaults."""
    given = {name: value for name, value in fields.items() if value is not None}
    return {"type": "generate", "prompt": prompt, **given}


def usage_params(
    since: date | str | None,
    until: date | str | None,
    model: str | None,
    user: str | None,
    tag: str | None,
) -> dict[str, Any]:
    """The query of `GET /v1/usage`; days as ISO 8601 writes them."""
    days = {"from": since, "to": until}
    return {
        **{name: None if day is None else str(day) for name, day in days.items()},
        **{"model": model, "user": user, "tag": tag},
    }


def without_none(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def event_of(message: ServerSentEvent, base_url: str) -> Event | None:
    """The event of a message; None for those that have none: they only keep the line open.

    Raises `Unexpected` for one that is not as our API's are.
    """
    if not message.data:
        return None
    asked = "an event of a job's stream"
    event = parsed(message.data, base_url, asked)
    if message.event == PREVIEW and isinstance(event, dict):
        event = {"code": PREVIEW, **event}
    code = typed_answer(answers.Event, event, base_url, asked)["code"]
    if code in answers.PAYLOADS:
        payload = event.get("payload") or {}
        typed_answer(answers.PAYLOADS[code], payload, base_url, f"{asked}, {code}")
    known: Event = event
    return known


def job_path(job: Job | str, *more: str) -> str:
    """The address of a job, or of what is below it."""
    return "/".join(["/v1/jobs", path_part(job if isinstance(job, str) else job.id), *more])


def path_part(text: str) -> str:
    """A text as one part of a path, whatever is in it."""
    return quote(text, safe="@", errors="surrogatepass")


@contextmanager
def transport_errors(address: str) -> Iterator[None]:
    """Turn what breaks on the way into `Unreachable`."""
    try:
        yield
    except SSEError:
        raise Unexpected(f"{address} {NOT_OURS}: its stream is no text/event-stream") from None
    except (httpx.TransportError, UnicodeError) as error:  # the latter of a name that is no host's
        raise Unreachable(address, reason(error)) from error
    except httpx.DecodingError:
        raise Unexpected(f"{address} {NOT_OURS}: its body cannot be unpacked") from None


def check(answer: httpx.Response, base_url: str) -> None:
    """Raise `Refused`, `Unreachable` or `Unexpected` for an error; its body has been read."""
    if answer.is_success:
        return
    try:
        envelope = answer.json()
    except (ValueError, RecursionError):
        envelope = None
    if isinstance(envelope, dict) and "code" in envelope:
        raise Refused(envelope, retry_after_s=_seconds(answer.headers.get("Retry-After", "")))
    if answer.status_code in _PASSING_STATUSES:
        raise Unreachable(base_url, f"a proxy answered {answer.status_code} in its place")
    raise Unexpected(f"{base_url} answered {answer.status_code}: is it Dream Forge's API?")


def json_of(answer: httpx.Response, base_url: str, shape: type[T]) -> T:
    """The JSON that is the answer. Raises `Unexpected` for one that is not as our API's are."""
    asked = f"{answer.request.method} {answer.request.url.path}"
    return typed_answer(shape, parsed(answer.content, base_url, asked), base_url, asked)


def parsed(text: str | bytes, base_url: str, asked: str) -> Any:
    """The value of a JSON text. Raises `Unexpected`."""
    try:
        return parse(text)
    except Mismatch as error:
        raise Unexpected(f"{base_url} {NOT_OURS} to {asked}: it is {error}") from None


def typed_answer(shape: type[T], value: object, base_url: str, asked: str) -> T:
    """What the API answered to `asked`, as one of `answers`. Raises `Unexpected`."""
    try:
        return typed(shape, value)
    except Mismatch as error:
        raise Unexpected(f"{base_url} {NOT_OURS} to {asked}: {error}") from None


def _seconds(text: str) -> float:
    """`Retry-After` in its form of a number, which is ours; 0 for another or none."""
    return float(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0.0


def repeat_after(error: ClientError, pause_s: float) -> float:
    """How long to pause before a create is sent again. Raises `error` where that is no use."""
    if isinstance(error, Refused):
        if error.code != "infra_unavailable" or error.retry_after_s > MOST_PAUSE_S:
            raise error
        return max(pause_s, error.retry_after_s)
    return pause_s


def next_page(page: answers.UsagePage, base_url: str) -> str | None:
    """The cursor of the page behind this one. Raises `Unexpected` where there would be no end."""
    cursor = page["next_cursor"]
    if cursor is not None and not page["usage"]:
        raise Unexpected(f"{base_url} {NOT_OURS}: an empty page of /v1/usage is not the last one")
    return cursor


class Deadline:
    """The end of a wait, `timeout_s` from now; None: it has none."""

    def __init__(self, timeout_s: float | None) -> None:
        if timeout_s is not None and math.isnan(timeout_s):
            raise ValueError("timeout_s: it is no number")
        self._end = math.inf if timeout_s is None else time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._end - time.monotonic())

    @property
    def wait_s(self) -> int:
        """How long the API is asked to wait: whole seconds, as it counts."""
        return int(min(WAIT_S, self.left_s))

    @property
    def rest_s(self) -> float:
        """What is left of a last second, which the API does not wait; 0 before it."""
        return self.left_s if self.left_s < 1 else 0.0

    def timeout(self) -> httpx.Timeout:
        """For one request with `wait_s`."""
        late_s = ANSWER_S if self._end == math.inf else LATE_S
        return httpx.Timeout(late_s, connect=3.0, read=self.wait_s + late_s)


class Position:
    """How far a stream or a wait has come, and how patient it still is."""

    def __init__(self, after: int = 0) -> None:
        self.after = after
        self._pauses = self._fresh()

    def see(self, event: Event) -> None:
        self.after = event.get("seq", self.after)  # a `queue` message has none
        self.progress()

    def progress(self) -> None:
        """An answer begins the pauses anew."""
        self._pauses = self._fresh()

    def pause_s(self, error: ClientError, left_s: float = math.inf) -> float:
        """How long to pause before the next attempt. Raises `error` when there is none in time."""
        pause_s = next(self._pauses, None) if error.passes else None
        if pause_s is not None and isinstance(error, Refused):
            pause_s = max(pause_s, error.retry_after_s)
        if pause_s is None or pause_s > min(MOST_PAUSE_S, left_s):
            raise error
        return pause_s

    @property
    def headers(self) -> dict[str, str]:
        resume = {"Last-Event-ID": str(self.after)} if self.after else {}
        return {"Accept": "text/event-stream", **resume}

    @staticmethod
    def _fresh() -> Iterator[float]:
        return within(GIVE_UP_S, backoff(first_s=FIRST_PAUSE_S, most_s=2.0))


def stream_params(previews: bool) -> dict[str, str]:
    return {} if previews else {"previews": "false"}


def stream_timeout() -> httpx.Timeout:
    return httpx.Timeout(SILENCE_S, connect=3.0)


def origin(url: str) -> str:
    """Never the whole of a presigned URL: its query is a key to the picture.

    Raises `Unexpected` for what is no address of a server.
    """
    try:
        address = httpx.URL(url)
        scheme, server = address.scheme, address.netloc.decode("ascii")
    except (TypeError, AttributeError, ValueError, httpx.InvalidURL):
        scheme = server = ""
    if scheme not in ("http", "https") or not server:
        raise Unexpected("an answer has no address where that of a picture stands")
    return f"{scheme}://{server}"


def check_stored(answer: httpx.Response, url: str, name: str) -> None:
    if answer.status_code in _PASSING_STATUSES:
        raise Unreachable(origin(url), f"the store answered {answer.status_code} for {name}")
    if answer.status_code != httpx.codes.OK:
        raise Unexpected(f"the store at {origin(url)} answered {answer.status_code} for {name}")


def check_sha256(digest: hashlib._Hash, sha256: str | None, url: str, name: str) -> None:
    if sha256 is not None and digest.hexdigest() != sha256:
        raise Unexpected(f"the store at {origin(url)} sent other bytes for {name} than were made")
