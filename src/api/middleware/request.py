"""What every request gets, whatever becomes of it.

A correlation id, checks of its host, key and head, bounds on its body, an answer when a handler
breaks, one log line and two metrics. Plain ASGI, so that streams pass unbuffered.
"""

from __future__ import annotations

import logging
import re
import time
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import envelope, internal
from api.metrics import Metrics
from api.middleware.auth import Authenticator
from api.middleware.body_limit import (
    BODY_TIMEOUT_S,
    UPLOAD_TIMEOUT_S,
    BoundedBody,
    discard,
    too_large,
)
from api.middleware.hosts import check_host
from api.middleware.tracing import trace_id_of
from api.schemas.ids import parse_id
from shared.errors import DreamForgeError, InvalidInput
from shared.limits import MAX_BODY_BYTES, MAX_REFERENCES
from shared.settings import Settings

log = logging.getLogger(__name__)

# As JSON Schema writes it; there "$" is the end of the text, in Python also before a last newline.
CLIENT_REQUEST_ID_PATTERN = r"^[\x21-\x7e]{1,128}$"
_CLIENT_REQUEST_ID = re.compile(CLIENT_REQUEST_ID_PATTERN.removesuffix("$") + r"\Z")


# Operations whose form has files, which they take as they arrive, and how many at most.
UPLOADS = {("POST", "/v1/inputs"): 1, ("POST", "/v1/images/edits"): MAX_REFERENCES + 1}
# What a form may have beside its file: boundaries, heads of parts, fields that are refused.
FORM_BYTES = 1 << 16


class RequestMiddleware:
    """Wraps the application: every request passes here before its route is looked up."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        settings: Settings,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._settings = settings
        self._authenticator = Authenticator(settings)
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["root_path"] = self._settings.root_path
        state = _RequestState(scope, send)
        try:
            await self._answer(state, receive)
        except Exception as error:
            log.exception("unhandled", extra=state.fields)
            if state.status:  # too late for an envelope: cut the stream, so that it shows
                raise error
            answer = envelope(internal(), state.correlation_id, path=scope["path"])
            await answer(scope, receive, state.send)
        finally:
            self._log_request(state)

    async def _answer(self, state: _RequestState, receive: Receive) -> None:
        try:
            check_host(state.headers, self._settings)
            self._authenticator.check(state.scope, state.headers)
            max_bytes, timeout_s = self._bounds(state)
            state.check_head(max_bytes)
        except DreamForgeError as refusal:
            if not state.waits_for_go_ahead:
                await discard(receive)
            headers, path = {"Connection": "close"}, state.scope["path"]
            response = envelope(refusal, state.correlation_id, headers, path=path)
            await response(state.scope, receive, state.send)
        else:
            bounded = BoundedBody(receive, max_bytes, timeout_s)
            await self._app(state.scope, bounded.receive, state.send)

    def _bounds(self, state: _RequestState) -> tuple[int, float]:
        """How many bytes a body may have, and how many seconds it may take."""
        files = UPLOADS.get((state.scope["method"], state.scope["path"]), 0)
        if files and not state.headers.get("content-type", "").startswith("application/json"):
            return files * self._settings.max_input_bytes + FORM_BYTES, UPLOAD_TIMEOUT_S
        return self._max_body_bytes, BODY_TIMEOUT_S

    def _log_request(self, state: _RequestState) -> None:
        scope, duration_s = state.scope, time.monotonic() - state.started
        route = getattr(scope.get("route"), "path_format", None) or "unmatched"
        latency_s = None if state.watched(route) else duration_s
        self._metrics.observe_request(route, scope["method"], state.status, latency_s)
        log.info(
            "%s %s %s",
            scope["method"],
            route,
            state.status or "aborted",
            extra={**state.fields, "duration_s": round(duration_s, 4)},
        )


def bad_client_request_id() -> InvalidInput:
    return InvalidInput(
        "X-Client-Request-Id must be 1 to 128 printable ASCII characters without spaces, and "
        "there once",
        field="X-Client-Request-Id",
    )


class _RequestState:
    """One request and its response's head."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.started = time.monotonic()
        self.status = 0  # none sent yet
        self.correlation_id = uuid4().hex
        self._send = send
        self.headers = Headers(scope=scope)
        client_ids = self.headers.getlist("x-client-request-id")
        self._bad_id = len(client_ids) > 1 or not all(map(_CLIENT_REQUEST_ID.match, client_ids))
        self.client_request_id = client_ids[0] if client_ids and not self._bad_id else None
        scope.setdefault("state", {}).update(
            correlation_id=self.correlation_id, client_request_id=self.client_request_id
        )

    @property
    def fields(self) -> dict[str, str | None]:
        """The fields that tie a log line to the request, and to the job that it names."""
        fields = {
            "correlation_id": self.correlation_id,
            "client_request_id": self.client_request_id,
        }
        if (job := parse_id(self.scope.get("path_params", {}).get("job_id", ""))) is not None:
            fields["job_id"] = str(job)
        if (trace_id := trace_id_of(self.scope)) is not None:
            fields["trace_id"] = trace_id
        return fields

    def watched(self, route: str) -> bool:
        """Whether the client followed a job, or waited for it."""
        return route.endswith("/stream") or self.scope["state"].get("waited", False)

    def check_head(self, max_body_bytes: int) -> None:
        """Raise the error of a request that its head alone refuses."""
        if self._bad_id:
            raise bad_client_request_id()
        if len(self.headers.getlist("idempotency-key")) > 1:
            raise InvalidInput(
                "Idempotency-Key: there is more than one, and we would have to guess which is "
                "meant",
                field="Idempotency-Key",
            )
        length = self.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > max_body_bytes:
            raise too_large(max_body_bytes)

    @property
    def waits_for_go_ahead(self) -> bool:
        """Whether the client holds its body back until we say that we want it."""
        return self.headers.get("expect", "").lower() == "100-continue"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = self.scope["state"]["status"] = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.correlation_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
            if self.client_request_id is not None:
                headers["X-Client-Request-Id"] = self.client_request_id
        await self._send(message)
