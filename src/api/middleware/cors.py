"""Which web pages may read our answers: none, unless `DF_CORS_ORIGINS` names them.

The outermost layer, so that every answer has the headers, refusals included: without them a page
could not tell a 413 from a network that is down. Cookies are never involved, so
`Access-Control-Allow-Credentials` is not sent.
"""

import logging
from collections.abc import Collection
from uuid import uuid4

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

_METHODS = ("GET", "POST")
_REQUEST_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-Client-Request-Id",
    "Traceparent",
)
_RESPONSE_HEADERS = (
    "Location",
    "Idempotent-Replayed",
    "X-Request-Id",
    "X-Client-Request-Id",
    "Retry-After",
)
_MAX_AGE_S = 600  # Chromium keeps a preflight no longer than two hours, and settings may change


class CrossOriginMiddleware(CORSMiddleware):
    """Starlette's middleware, which would refuse a preflight in plain text, outside our envelope.

    A preflight of a page that is not named goes on to the router, which has no OPTIONS. A page that
    is named gets the lists, and its browser compares them with what the page is about to send.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_REQUEST_HEADERS,
            expose_headers=_RESPONSE_HEADERS,
            max_age=_MAX_AGE_S,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if not self.is_allowed_origin(headers.get("origin", "")):
                await self.simple_response(scope, receive, send, request_headers=headers)
                return
        await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        correlation_id = uuid4().hex  # it never reaches the request middleware, which adds this
        log.info("OPTIONS preflight 204", extra={"correlation_id": correlation_id})
        own = {
            "Access-Control-Allow-Origin": request_headers["origin"],
            "X-Request-Id": correlation_id,
        }
        return Response(status_code=204, headers=self.preflight_headers | own)
