"""Which web pages may read our answers: none, unless `DF_CORS_ORIGINS` names them.

The outermost layer, so that every answer has the headers, refusals included: without them a page
could not tell a 413 from a network that is down. Cookies are never involved, so
`Access-Control-Allow-Credentials` is not sent.
"""

import logging
import re
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
    "Prefer",
    "X-Client-Request-Id",
    "Traceparent",
)
_RESPONSE_HEADERS = (
    "Location",
    "Idempotent-Replayed",
    "Preference-Applied",
    "X-Job-Id",
    "X-Request-Id",
    "X-Client-Request-Id",
    "Retry-After",
    "X-Should-Retry",  # what OpenAI's client reads to know whether it may send the same again
    "Allow",
    "WWW-Authenticate",
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
MAX_ASKED = 100  # names of headers in one preflight
_MAX_AGE_S = 600  # Chromium keeps a preflight no longer than two hours, and settings may change


class CrossOriginMiddleware(CORSMiddleware):
    """Starlette's middleware, which would refuse a preflight in plain text, outside our envelope.

    A preflight of a page that is not named goes on to the router, which has no OPTIONS. A page that
    is named may send whatever it asks for: tracing libraries add headers of their own to each
    request, and one that a list did not know would cost the page every answer.
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
            "Access-Control-Allow-Headers": _with_asked(
                _REQUEST_HEADERS, request_headers.get("access-control-request-headers", "")
            ),
            "Access-Control-Allow-Methods": _with_asked(
                _METHODS, request_headers.get("access-control-request-method", "")
            ),
            "Vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
            "X-Request-Id": correlation_id,
        }
        return Response(status_code=204, headers=self.preflight_headers | own)


def _with_asked(known: Collection[str], asked: str) -> str:
    """The names that we know and those that are asked for, as far as they are names."""
    names = {name.lower(): name for name in known}
    for name in map(str.strip, asked.split(",")[:MAX_ASKED]):
        if _TOKEN.fullmatch(name):
            names.setdefault(name.lower(), name)
    return ", ".join(names.values())
