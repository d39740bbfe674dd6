"""Which web pages may read our answers. None, unless `DF_CORS_ORIGINS` names them.

Written here and not taken from Starlette because every answer needs the headers, the edge's own
refusals included (a page could not even tell a 413 otherwise), and a refusal its envelope.
Cookies are never involved, so `Access-Control-Allow-Credentials` is not sent.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import Response

EXPOSED = "Location, Idempotent-Replayed, X-Request-Id, X-Client-Request-Id, Retry-After"
_METHODS = "GET, POST"
_HEADERS = (
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Client-Request-Id, Traceparent"
)
_MAX_AGE_S = 600  # Chromium keeps a preflight no longer than two hours, and settings may change


class Cors:
    """The rules of one process."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    def headers(self, asked: Headers) -> dict[str, str]:
        """What every answer to this request carries."""
        if not self._origins:
            return {}
        origin = asked.get("origin")
        if origin not in self._origins:
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": EXPOSED,
        }

    def preflight(self, method: str, asked: Headers) -> Response | None:
        """The answer to a preflight, which carries no key; None if this is none, or not allowed."""
        if method != "OPTIONS" or "access-control-request-method" not in asked:
            return None
        if asked.get("origin") not in self._origins:
            return None
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _HEADERS,
                "Access-Control-Max-Age": str(_MAX_AGE_S),
            },
        )
