"""One call of OpenAI's routes: its job is there, and its client waits for the pictures.

The call follows its job to the end, however long that takes. What cuts it before (a proxy, the end
of this process, a client that leaves) changes nothing: the same request with the same
`Idempotency-Key` finds the same job. Their clients repeat requests by themselves, so an answer says
in `X-Should-Retry` whether that is safe, which it is only with a key.
"""

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import anyio
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from api.context import Context
from api.dialect.answers import Completed, Pictures
from api.dialect.bodies import completed_events, error_event, json_body, url_body
from api.dialect.partials import Partials, partial_event
from api.dialect.pictures import deleted
from api.dialect.request import GenerateImages
from api.errors import in_openai_shape
from api.schemas.ids import no_such_job
from shared.db import artifacts, jobs
from shared.db.engine import Connection
from shared.db.jobs import Job
from shared.db.transitions import request_cancel
from shared.errors import DreamForgeError, InfraUnavailable
from shared.states import Reason, Status

# A comment so often keeps an idle stream open.
HEARTBEAT_S = 15.0
HEARTBEAT = b": still here\n\n"
_EVENTS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
CANCELLED_STATUS, FAILED_STATUS = 409, 500


class Unsuccessful(Exception):
    """The job ended without all of its pictures. `error` has the fields of our envelope."""

    def __init__(self, job: Job) -> None:
        cancelled = job.reason is Reason.CANCELLED
        self.status = CANCELLED_STATUS if cancelled else FAILED_STATUS
        stored = job.error or {}
        self.error: dict[str, Any] = {
            "code": stored.get("code", "internal"),
            "message": stored.get("message", f"the job ended: {job.reason}"),
            "details": {**stored.get("details", {}), "job_id": str(job.id)},
        }
        super().__init__(self.error["message"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call. `keyed`: it has an `Idempotency-Key`; `cancels`: its job ends if the client leaves.

    `completed` is the name of an event with a picture. `headers` go with every answer.
    """

    context: Context
    request: Request
    user: str
    body: GenerateImages
    completed: Completed
    job_id: UUID
    keyed: bool
    cancels: bool
    headers: dict[str, str]

    async def answer(self, held: ExitStack) -> Response:
        """Wait, and answer with the pictures; `held` is closed when they are sent."""
        try:
            if not await self._wait(None):
                return NoAnswer()
            pictures = await self._pictures()
            if self.body.response_format == "url":
                return JSONResponse(self._urls(pictures), headers=self.headers)
            parts = json_body(pictures, self.body, self.context.store)
            first = await anext(parts)
        except (Unsuccessful, DreamForgeError) as error:
            return self._refusal(error)
        return PartsResponse(
            _chain(first, parts),
            held=held.pop_all(),
            media_type="application/json",
            headers=self.headers,
        )

    def stream(self, held: ExitStack) -> Response:
        """Answer at once, with events that come when there are any."""
        return PartsResponse(
            self._events(),
            held=held.pop_all(),
            media_type="text/event-stream",
            headers={**self.headers, **_EVENTS},
        )

    async def _events(self) -> AsyncGenerator[bytes]:
        between_events = True
        partials = Partials(self.context.previews, self.job_id, self.body.partial_images or 0)
        try:
            with partials:
                while not await self._ended(partials.wakeup):
                    if (partial := partials.take()) is not None:
                        yield partial_event(*partial, self.body, self.completed)
                    else:
                        yield HEARTBEAT
            pictures = await self._pictures()
            async for part in completed_events(
                pictures, self.body, self.context.store, self.completed
            ):
                yield part
                between_events = part.endswith(b"\n\n")
        except _ClientLeft:
            return
        except (Unsuccessful, DreamForgeError) as error:
            if not between_events:  # cut the stream: half an event must not look like one
                raise
            yield error_event(self._error(error))

    async def _ended(self, wakeup: anyio.Event) -> bool:
        """Whether there is nothing more to wait for; False after `HEARTBEAT_S`, or `wakeup`."""
        if not await self._wait(HEARTBEAT_S, wakeup):
            raise _ClientLeft
        return self.context.hub.closing or (await self._job()).ended

    async def _wait(self, timeout_s: float | None, wakeup: anyio.Event | None = None) -> bool:
        """Wait for the job's end. False: the client has left."""
        there = await self.context.waits.until_end(
            self.request, self._job, timeout_s=timeout_s, wakeup=wakeup
        )
        if not there and self.cancels:
            ended = await self.context.database.transaction(
                request_cancel, self.job_id, user=self.user
            )
            if ended:
                self.context.metrics.jobs_finished.labels("cancelled", "cancelled").inc()
        return there

    async def _job(self) -> Job:
        job = await self.context.database.statement(jobs.get, self.job_id, user=self.user)
        if job is None:
            raise no_such_job()
        return job

    async def _pictures(self) -> Pictures:
        """Raises `Unsuccessful`, `NotFound`, `InfraUnavailable`."""
        pictures = await self.context.waits.read(
            lambda: self.context.database.transaction(self._read)
        )
        if not pictures.job.ended:
            raise InfraUnavailable(
                "this process ends; the job goes on, and the same request with the same "
                "Idempotency-Key finds it"
            )
        if pictures.job.status is not Status.SUCCEEDED:
            raise Unsuccessful(pictures.job)
        if len(pictures.artifacts) < pictures.job.count:
            raise deleted()
        return pictures

    async def _read(self, connection: Connection) -> Pictures:
        job = await jobs.get(connection, self.job_id, user=self.user)
        if job is None:
            raise no_such_job()
        steps = (await jobs.steps_of(connection, [self.job_id]))[self.job_id]
        stored = await artifacts.list_artifacts(connection, self.job_id)
        return Pictures(
            job=job,
            artifacts=[each for each in stored if each.step_id == steps[-1].id],
            run_seconds=await jobs.run_seconds(connection, self.job_id),
        )

    def _urls(self, pictures: Pictures) -> dict[str, Any]:
        ttl_s = self.context.settings.presign_ttl_s
        return url_body(pictures, self.body, lambda key: self.context.store.presign(key, ttl_s))

    def _refusal(self, error: Unsuccessful | DreamForgeError) -> Response:
        """The answer with an error that came after the job was made."""
        again = isinstance(error, DreamForgeError) and error.retry_after_s is not None
        headers = self.headers | {"X-Should-Retry": str(again and self.keyed).lower()}
        if again and isinstance(error, DreamForgeError):
            headers["Retry-After"] = str(error.retry_after_s)
        body = {"error": self._error(error)}
        return JSONResponse(body, status_code=_status_of(error), headers=headers)

    def _error(self, error: Unsuccessful | DreamForgeError) -> dict[str, Any]:
        correlation_id = self.request.state.correlation_id
        if isinstance(error, Unsuccessful):
            fields = error.error
        else:
            details = {**error.details, "job_id": str(self.job_id)}
            fields = {"code": error.code, "message": error.message, "details": details}
        return in_openai_shape({**fields, "correlation_id": correlation_id}, _status_of(error))


class _ClientLeft(Exception):
    pass


class PartsResponse(StreamingResponse):
    """Sends the parts of a body, then frees what it holds.

    Starlette's own would cancel the parts when the client leaves. A call notices that itself,
    because it may have a job to cancel then, and the end of this process must not look like it.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes],
        *,
        held: ExitStack,
        media_type: str,
        headers: dict[str, str],
    ) -> None:
        super().__init__(parts, media_type=media_type, headers=headers)
        self._parts = parts
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            async with aclosing(self._parts):
                await self.stream_response(send)


class NoAnswer(Response):
    """To a client that has left: nothing, so that the request counts as aborted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass


async def _chain(first: bytes, parts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(parts):
        yield first
        async for part in parts:
            yield part


def _status_of(error: Unsuccessful | DreamForgeError) -> int:
    return error.status if isinstance(error, Unsuccessful) else error.http_status
