"""The client for code without an event loop."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx
from httpx_sse import EventSource

from dreamforge_client import answers, exchange
from dreamforge_client.errors import ClientError, JobUnsuccessful, Refused, Unreachable
from dreamforge_client.exchange import Position, job_path
from dreamforge_client.files import draft_of, place
from dreamforge_client.shapes import Event, Job, Picture, last_of_items
from shared.retry import retry_sync

T = TypeVar("T")


class Client:
    """One API, at `base_url`. Its methods raise `ClientError`s.

    What the caller must mend is a `ValueError`: a `base_url` or a key that no request can have.
    `http` replaces the HTTP client; it then has base address, key and timeouts. `on_retry` gets
    each error after which a create is sent again, and the pause in seconds.
    """

    def __init__(
        self,
        base_url: str = exchange.DEFAULT_BASE,
        api_key: str | None = None,
        *,
        http: httpx.Client | None = None,
        on_retry: Callable[[ClientError, float], None] = lambda error, pause_s: None,
    ) -> None:
        self.base_url = exchange.checked_base(base_url)
        self.on_retry = on_retry
        self.http = http or httpx.Client(**exchange.options(base_url, api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    # Jobs -----------------------------------------------------------------------------------------

    def create(self, prompt: str, *, key: str | None = None, **fields: Any) -> Job:
        """Create a job; `fields` are those of `POST /v1/jobs`.

        `key` is the `Idempotency-Key`; without one the client makes one up, and so may send the
        request again when its answer is lost.
        """
        body, key = exchange.create_body(prompt, fields), key or str(uuid4())
        return Job.of(
            self.repeat(lambda: self.post_as(answers.CreatedJob, "/v1/jobs", body, key))["job"]
        )

    def job(self, job: Job | str) -> Job:
        """The job as it is now."""
        return Job.of(self.get_as(answers.Job, job_path(job)))

    def wait(self, job: Job | str, timeout_s: float | None = None) -> Job:
        """The job once it has ended; after `timeout_s` as it is then.

        Where the API does not answer by then, its error is raised.
        """
        deadline, position = exchange.Deadline(timeout_s), Position()
        while True:
            try:
                now = self._wait_once(job_path(job), deadline)
            except (Unreachable, Refused) as error:
                time.sleep(position.pause_s(error, deadline.left_s))
                continue
            if now.ended or not deadline.left_s:
                return now
            position.progress()
            time.sleep(deadline.rest_s)

    def result(self, job: Job | str) -> Job:
        """Wait for the job. Raises `JobUnsuccessful` unless it succeeded."""
        ended = self.wait(job)
        if ended.status != "succeeded":
            raise JobUnsuccessful(ended)
        return ended

    def stream(self, job: Job | str, after: int = 0, *, previews: bool = True) -> Iterator[Event]:
        """Every event after number `after` until the job has ended, whatever breaks meanwhile.

        Messages with the codes `queue` and `preview` are among them; they have no `seq`. Without
        `previews` none are made for this stream.
        """
        position = Position(after)
        while True:
            failure: ClientError = Unreachable(self.base_url, "the stream ended early")
            try:
                for event in self._connection(job_path(job), position, previews):
                    if event is None:
                        return
                    position.see(event)
                    yield event
            except (Unreachable, Refused) as error:
                failure = error
            time.sleep(position.pause_s(failure))

    def cancel(self, job: Job | str) -> Job:
        """Ask for its end; the job as it is then, which may run on for a moment."""
        return Job.of(self.post_as(answers.Job, job_path(job, "cancel")))

    def pictures(self, job: Job | str) -> list[Picture]:
        """What is finished by now, of each item the result of the last step that finished it."""
        answer = self.get_as(answers.Artifacts, job_path(job, "artifacts"))
        return [Picture.of(each) for each in last_of_items(answer["artifacts"])]

    def save(self, job: Job | str, folder: Path | str = ".") -> list[Path]:
        """Save its pictures as <item>_<seed>.<format>; returns the paths, in their order.

        Where another file has that name, the next one is taken (`-2`, `-3`): none is replaced, and
        the same picture is not saved twice.
        """
        paths = []
        for picture in self.pictures(job):
            with draft_of(picture.file_name, Path(folder)) as draft:
                self.download(picture.url, draft, sha256=picture.sha256)
                paths.append(place(draft, Path(folder)))
        return paths

    def upload(self, file: Path | str) -> str:
        """Send a picture that jobs may start from; its id, for `image` and `mask` of a create."""
        return self.repeat(lambda: self._upload(Path(file)))["input"]["id"]

    def usage(
        self,
        *,
        since: date | str | None = None,
        until: date | str | None = None,
        model: str | None = None,
        user: str | None = None,
        tag: str | None = None,
    ) -> list[answers.Usage]:
        """What was used, by day, user and model: the rows of every page of `GET /v1/usage`.

        `since` and `until` are days (UTC), both included. `tag` is a key by which the API counts
        too, for a row of each of its values, or `key=value`.
        """
        params = exchange.usage_params(since, until, model, user, tag)
        rows: list[answers.Usage] = []
        cursor = None
        while True:
            page = self.get_as(answers.UsagePage, "/v1/usage", **params, cursor=cursor)
            rows += page["usage"]
            if (cursor := exchange.next_page(page, self.base_url)) is None:
                return rows

    # Requests -------------------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Any:
        """The JSON of an answer; a parameter that is None is not sent."""
        return self.get_as(dict[str, Any], path, **params)

    def post(self, path: str, body: Mapping[str, Any] | None = None, key: str | None = None) -> Any:
        return self.post_as(dict[str, Any], path, body, key)

    def get_as(self, shape: type[T], path: str, /, **params: Any) -> T:
        """The same, proven to have the fields and types of `shape`."""
        params = exchange.without_none(params)
        return self._json(shape, self.http.build_request("GET", path, params=params))

    def post_as(
        self,
        shape: type[T],
        path: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> T:
        headers = exchange.key_headers(key)
        request = self.http.build_request("POST", path, json=body, headers=headers)
        return self._json(shape, request)

    def delete(self, path: str) -> None:
        """For an answer without a body."""
        with self.send(self.http.build_request("DELETE", path)):
            pass

    def lines(self, path: str, **params: Any) -> Iterator[str]:
        """The lines of an NDJSON answer, as they come."""
        request = self.http.build_request("GET", path, params=exchange.without_none(params))
        with self.send(request, stream=True) as answer:
            yield from answer.iter_lines()

    def download(self, url: str, path: Path, *, sha256: str | None = None) -> None:
        """Save what a presigned URL has; `path` appears when it is complete and as it was made."""
        draft = path.with_name(f".{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with (
            exchange.transport_errors(exchange.origin(url)),
            httpx.Client(timeout=exchange.TIMEOUT, trust_env=self.http.trust_env) as plain,
            plain.stream("GET", url) as answer,
        ):
            exchange.check_stored(answer, url, path.name)
            with draft.open("wb") as file:
                for chunk in answer.iter_bytes(exchange.CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
        exchange.check_sha256(digest, sha256, url, path.name)
        draft.replace(path)

    def repeat(self, request: Callable[[], T]) -> T:
        """Send what may be sent twice until the API answers, within bounds."""

        def on_failure(error: ClientError, pause_s: float) -> float:
            pause_s = exchange.repeat_after(error, pause_s)
            self.on_retry(error, pause_s)
            return pause_s

        return retry_sync(
            request,
            on=(Unreachable, Refused),
            pauses=exchange.CREATE_PAUSES_S,
            on_failure=on_failure,
        )

    @contextmanager
    def send(self, request: httpx.Request, *, stream: bool = False) -> Iterator[httpx.Response]:
        """The answer to one request; `stream` leaves its body to be read."""
        with exchange.transport_errors(self.base_url):
            answer = self.http.send(request, stream=stream)
            try:
                if not answer.is_success:
                    answer.read()
                exchange.check(answer, self.base_url)
                yield answer
            finally:
                answer.close()

    def _upload(self, file: Path) -> answers.Uploaded:
        with file.open("rb") as opened:
            files = {exchange.FILE_FIELD: (file.name, opened)}
            return self._json(
                answers.Uploaded,
                self.http.build_request("POST", exchange.INPUTS, files=files),
            )

    def _json(self, shape: type[T], request: httpx.Request) -> T:
        with self.send(request) as answer:
            return exchange.json_of(answer, self.base_url, shape)

    def _wait_once(self, path: str, deadline: exchange.Deadline) -> Job:
        request = self.http.build_request(
            "GET",
            path,
            params={"wait": deadline.wait_s},
            timeout=deadline.timeout(),
        )
        return Job.of(self._json(answers.Job, request))

    def _connection(self, path: str, position: Position, previews: bool) -> Iterator[Event | None]:
        """The events of one connection; None at the job's end."""
        request = self.http.build_request(
            "GET",
            f"{path}/progress/stream",
            params=exchange.stream_params(previews),
            headers=position.headers,
            timeout=exchange.stream_timeout(),
        )
        with self.send(request, stream=True) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:
                yield None
                return
            for message in EventSource(answer).iter_sse():
                if (event := exchange.event_of(message, self.base_url)) is not None:
                    yield event
