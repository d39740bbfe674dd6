"""The client for asyncio and trio."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any, Self, TypeVar
from uuid import uuid4

import anyio
import httpx
from httpx_sse import EventSource

from dreamforge_client import answers, exchange
from dreamforge_client.errors import ClientError, JobUnsuccessful, Refused, Unreachable
from dreamforge_client.exchange import Position, job_path
from dreamforge_client.files import draft_of, place
from dreamforge_client.shapes import Event, Job, Picture, last_of_items
from shared.retry import retry

T = TypeVar("T")


class AsyncClient:
    """`Client`, with methods that are awaited."""

    def __init__(
        self,
        base_url: str = exchange.DEFAULT_BASE,
        api_key: str | None = None,
        *,
        http: httpx.AsyncClient | None = None,
        on_retry: Callable[[ClientError, float], None] = lambda error, pause_s: None,
    ) -> None:
        self.base_url = exchange.checked_base(base_url)
        self.on_retry = on_retry
        self.http = http or httpx.AsyncClient(**exchange.options(base_url, api_key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.http.aclose()

    # Jobs -----------------------------------------------------------------------------------------

    async def create(self, prompt: str, *, key: str | None = None, **fields: Any) -> Job:
        """As `Client.create`."""
        body, key = exchange.create_body(prompt, fields), key or str(uuid4())
        created = await self.repeat(lambda: self.post_as(answers.CreatedJob, "/v1/jobs", body, key))
        return Job.of(created["job"])

    async def job(self, job: Job | str) -> Job:
        """The job as it is now."""
        return Job.of(await self.get_as(answers.Job, job_path(job)))

    async def wait(self, job: Job | str, timeout_s: float | None = None) -> Job:
        """As `Client.wait`."""
        deadline, position = exchange.Deadline(timeout_s), Position()
        while True:
            try:
                now = await self._wait_once(job_path(job), deadline)
            except (Unreachable, Refused) as error:
                await anyio.sleep(position.pause_s(error, deadline.left_s))
                continue
            if now.ended or not deadline.left_s:
                return now
            position.progress()
            await anyio.sleep(deadline.rest_s)

    async def result(self, job: Job | str) -> Job:
        """Wait for the job. Raises `JobUnsuccessful` unless it succeeded."""
        ended = await self.wait(job)
        if ended.status != "succeeded":
            raise JobUnsuccessful(ended)
        return ended

    async def stream(
        self, job: Job | str, after: int = 0, *, previews: bool = True
    ) -> AsyncGenerator[Event]:
        """As `Client.stream`."""
        position = Position(after)
        while True:
            failure: ClientError = Unreachable(self.base_url, "the stream ended early")
            try:
                async with aclosing(self._connection(job_path(job), position, previews)) as events:
                    async for event in events:
                        if event is None:
                            return
                        position.see(event)
                        yield event
            except (Unreachable, Refused) as error:
                failure = error
            await anyio.sleep(position.pause_s(failure))

    async def cancel(self, job: Job | str) -> Job:
        """As `Client.cancel`."""
        return Job.of(await self.post_as(answers.Job, job_path(job, "cancel")))

    async def pictures(self, job: Job | str) -> list[Picture]:
        """As `Client.pictures`."""
        answer = await self.get_as(answers.Artifacts, job_path(job, "artifacts"))
        return [Picture.of(each) for each in last_of_items(answer["artifacts"])]

    async def save(self, job: Job | str, folder: Path | str = ".") -> list[Path]:
        """As `Client.save`."""
        paths = []
        for picture in await self.pictures(job):
            with draft_of(picture.file_name, Path(folder)) as draft:
                await self.download(picture.url, draft, sha256=picture.sha256)
                paths.append(await anyio.to_thread.run_sync(place, draft, Path(folder)))
        return paths

    async def upload(self, file: Path | str) -> str:
        """As `Client.upload`; the file is read whole."""
        path = anyio.Path(file)
        data = await path.read_bytes()
        sent = await self.repeat(lambda: self._upload(path.name, data))
        return sent["input"]["id"]

    async def usage(
        self,
        *,
        since: date | str | None = None,
        until: date | str | None = None,
        model: str | None = None,
        user: str | None = None,
        tag: str | None = None,
    ) -> list[answers.Usage]:
        """As `Client.usage`."""
        params = exchange.usage_params(since, until, model, user, tag)
        rows: list[answers.Usage] = []
        cursor = None
        while True:
            page = await self.get_as(answers.UsagePage, "/v1/usage", **params, cursor=cursor)
            rows += page["usage"]
            if (cursor := exchange.next_page(page, self.base_url)) is None:
                return rows

    # Requests -------------------------------------------------------------------------------------

    async def get(self, path: str, **params: Any) -> Any:
        """The JSON of an answer; a parameter that is None is not sent."""
        return await self.get_as(dict[str, Any], path, **params)

    async def post(
        self, path: str, body: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Any:
        return await self.post_as(dict[str, Any], path, body, key)

    async def get_as(self, shape: type[T], path: str, /, **params: Any) -> T:
        """The same, proven to have the fields and types of `shape`."""
        params = exchange.without_none(params)
        return await self._json(shape, self.http.build_request("GET", path, params=params))

    async def post_as(
        self,
        shape: type[T],
        path: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> T:
        headers = exchange.key_headers(key)
        request = self.http.build_request("POST", path, json=body, headers=headers)
        return await self._json(shape, request)

    async def delete(self, path: str) -> None:
        """For an answer without a body."""
        async with self.send(self.http.build_request("DELETE", path)):
            pass

    async def download(self, url: str, path: Path, *, sha256: str | None = None) -> None:
        """As `Client.download`."""
        target = anyio.Path(path)
        draft = target.with_name(f".{path.name}.part")
        await target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with exchange.transport_errors(exchange.origin(url)):
            async with (
                httpx.AsyncClient(timeout=exchange.TIMEOUT, trust_env=self.http.trust_env) as plain,
                plain.stream("GET", url) as answer,
            ):
                exchange.check_stored(answer, url, path.name)
                async with await draft.open("wb") as file:
                    async for chunk in answer.aiter_bytes(exchange.CHUNK_BYTES):
                        digest.update(chunk)
                        await file.write(chunk)
        exchange.check_sha256(digest, sha256, url, path.name)
        await draft.replace(path)

    async def repeat(self, request: Callable[[], Awaitable[T]]) -> T:
        """As `Client.repeat`."""

        def on_failure(error: ClientError, pause_s: float) -> float:
            pause_s = exchange.repeat_after(error, pause_s)
            self.on_retry(error, pause_s)
            return pause_s

        return await retry(
            request,
            on=(Unreachable, Refused),
            pauses=exchange.CREATE_PAUSES_S,
            on_failure=on_failure,
        )

    @asynccontextmanager
    async def send(
        self, request: httpx.Request, *, stream: bool = False
    ) -> AsyncIterator[httpx.Response]:
        """The answer to one request; `stream` leaves its body to be read."""
        with exchange.transport_errors(self.base_url):
            answer = await self.http.send(request, stream=stream)
            try:
                if not answer.is_success:
                    await answer.aread()
                exchange.check(answer, self.base_url)
                yield answer
            finally:
                await answer.aclose()

    async def _upload(self, name: str, data: bytes) -> answers.Uploaded:
        files = {exchange.FILE_FIELD: (name, data)}
        return await self._json(
            answers.Uploaded,
            self.http.build_request("POST", exchange.INPUTS, files=files),
        )

    async def _json(self, shape: type[T], request: httpx.Request) -> T:
        async with self.send(request) as answer:
            return exchange.json_of(answer, self.base_url, shape)

    async def _wait_once(self, path: str, deadline: exchange.Deadline) -> Job:
        request = self.http.build_request(
            "GET",
            path,
            params={"wait": deadline.wait_s},
            timeout=deadline.timeout(),
        )
        return Job.of(await self._json(answers.Job, request))

    async def _connection(
        self, path: str, position: Position, previews: bool
    ) -> AsyncGenerator[Event | None]:
        """The events of one connection; None at the job's end."""
        request = self.http.build_request(
            "GET",
            f"{path}/progress/stream",
            params=exchange.stream_params(previews),
            headers=position.headers,
            timeout=exchange.stream_timeout(),
        )
        async with self.send(request, stream=True) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:
                yield None
                return
            async for message in EventSource(answer).aiter_sse():
                if (event := exchange.event_of(message, self.base_url)) is not None:
                    yield event
