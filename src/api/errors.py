"""One envelope for every error, wherever it comes from; on OpenAI's routes it has their shape.

A response has no value of the request, no stack trace, no SQL, path or secret. The log line with
the same correlation id has them.
"""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request

from shared.errors import (
    DreamForgeError,
    Internal,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Unauthorized,
)

log = logging.getLogger(__name__)

# Below this path errors have the shape that OpenAI's clients read, with our code inside.
OPENAI_PATH = "/v1/images/"
MAX_ERRORS = 20  # a body of a thousand unknown fields gets no answer of a thousand entries
MAX_FIELD_CHARACTERS = 100
_COLLECTIONS = {"Dictionary", "List"}
# Bounds that pydantic reports beside its message, under the name that JSON Schema has for them.
_LIMITS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "min_length": "minLength",
    "max_length": "maxLength",
    "expected": "expected",
}


class BodyRefused(HTTPException):
    """An error of ours, raised while FastAPI reads a body: FastAPI lets only this kind pass."""

    def __init__(self, error: DreamForgeError) -> None:
        super().__init__(error.http_status, headers={"Connection": "close"})
        self.error = error


def install(app: FastAPI) -> None:
    """Map every exception that the router and the routes can raise."""
    for kind in (DreamForgeError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)


def envelope(
    error: DreamForgeError,
    correlation_id: str,
    headers: Mapping[str, str] | None = None,
    *,
    path: str = "",
) -> JSONResponse:
    """The response for `error` to a request with this path."""
    extra = dict(headers or {})
    if error.retry_after_s is not None:
        extra["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        extra["WWW-Authenticate"] = "Bearer"
    body = {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "correlation_id": correlation_id,
    }
    if path.startswith(OPENAI_PATH):
        # Their clients repeat a 409 and each 5xx, with a key or without one, unless this says no.
        extra.setdefault("X-Should-Retry", str(error.retry_after_s is not None).lower())
        body = {"error": in_openai_shape(body, error.http_status)}
    return JSONResponse(body, status_code=error.http_status, headers=extra)


def in_openai_shape(body: Mapping[str, Any], status: int) -> dict[str, Any]:
    """An envelope's fields, and those that OpenAI has beside `message` and `code`."""
    details = body["details"]
    findings = details.get("errors") or [details]
    match status:
        case 401:
            kind = "authentication_error"
        case 429:
            kind = "rate_limit_error"
        case _:
            kind = "server_error" if status >= 500 else "invalid_request_error"
    return {**body, "type": kind, "param": findings[0].get("field") or None}


def internal() -> Internal:
    return Internal("something went wrong on our side")


async def _answer(request: Request, raised: Exception) -> Response:
    error = _translate(raised, request)
    correlation_id = request.state.correlation_id
    if error.http_status >= 500:
        extra = {"correlation_id": correlation_id}
        log.error("%s", error, exc_info=raised, extra=extra)
    if error.retry_after_s is not None and _is_event_source(request):
        return _come_again(error, error.retry_after_s)
    headers = dict(getattr(raised, "headers", None) or {})
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(_allowed_methods(request))
    return envelope(error, correlation_id, headers, path=request.scope["path"])


def _is_event_source(request: Request) -> bool:
    """Whether a browser's EventSource asks: the standard fixes both headers, and fetch sends other
    ones."""
    headers = request.headers
    return (
        headers.get("accept") == "text/event-stream" and headers.get("cache-control") == "no-cache"
    )


def _come_again(error: DreamForgeError, pause_s: int) -> Response:
    """A refusal that passes, for an EventSource: every status but 200 would close it for good."""
    text = f"retry: {pause_s * 1000}\n: {error.code}, {error.message}\n\n"
    headers = {"Cache-Control": "no-cache, no-transform"}
    return Response(text, media_type="text/event-stream", headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """Every method of this address. The router itself knows only those of its first route."""
    routes = iter_route_contexts(request.app.routes)
    template = getattr(request.scope.get("route"), "path_format", request.scope["path"])
    return sorted({m for route in routes if route.path == template for m in route.methods or ()})


def _translate(raised: Exception, request: Request) -> DreamForgeError:
    """Any exception as one of our errors."""
    match raised:
        case DreamForgeError():
            return raised
        case RequestValidationError():
            return _invalid(raised.errors(), request.headers)
        case BodyRefused():
            return raised.error
        case HTTPException(__cause__=DreamForgeError() as cause):  # raised while JSON was parsed
            return cause
        case HTTPException(status_code=404):
            return NotFound("there is no such address; /docs lists what there is")
        case HTTPException(status_code=405):
            return MethodNotAllowed(f"this address does not answer to {request.method}")
        case HTTPException(status_code=status) if status < 500:
            return InvalidInput(_why_unreadable(raised.__cause__))
        case _:
            return internal()


def _why_unreadable(cause: BaseException | None) -> str:
    """Why FastAPI could not read a body, by what its reader raised. Most errors about JSON come as
    a RequestValidationError; these do not."""
    match cause:
        case RecursionError():
            return "the body is nested too deeply; no request has more than three levels"
        case UnicodeDecodeError():
            return "the body is not text in UTF-8"
        case ValueError():
            return "a whole number in the body has too many digits"
        case _:
            return "the body cannot be read: it must be JSON in UTF-8"


def _invalid(errors: Any, headers: Mapping[str, str]) -> InvalidInput:
    """pydantic's errors in our form: field, message, and the limit that was crossed."""
    findings = [_finding(error, headers) for error in errors[:MAX_ERRORS]]
    first = findings[0]
    message = f"{first['field']}: {first['message']}" if first["field"] else first["message"]
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more)"
    return InvalidInput(message, errors=findings)


def _finding(error: Mapping[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    place = [str(part) for part in error["loc"]]
    field = printable(".".join(place[1:]))
    context = error.get("ctx", {})
    if error["type"] == "json_invalid":
        return {
            "field": "",
            "message": f"the body is not JSON: {context['error'].removesuffix(' at')} "
            f"at character {place[-1]}",
        }
    if place == ["body"]:
        return {"field": "", "message": _body_message(error, headers)}
    limits = {ours: context[theirs] for theirs, ours in _LIMITS.items() if theirs in context}
    return {"field": field, "message": _message(error), **limits}


def _message(error: Mapping[str, Any]) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "is not known here"
        case "too_long":
            unit = "entries" if error["ctx"]["field_type"] in _COLLECTIONS else "characters"
            return f"must have at most {error['ctx']['max_length']} {unit}"
        case "too_short":  # pydantic speaks of items
            least = error["ctx"]["min_length"]
            return "must not be empty" if least == 1 else f"must have at least {least} characters"
        case "string_unicode":
            return "text must not contain lone surrogates (half of a UTF-16 pair)"
        case _:
            return str(error["msg"]).removeprefix("Value error, ")


def _body_message(error: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        return "the body must be JSON, with Content-Type: application/json"
    match error["type"]:
        case "missing":
            return "the body is missing"
        case "model_attributes_type" | "model_type" | "dict_type":
            return "the body must be a JSON object"
        case _:
            return _message(error)


def printable(text: str) -> str:
    """A field's name, which the client may have made up, short and encodable."""
    return text[:MAX_FIELD_CHARACTERS].encode("unicode_escape").decode("ascii")
