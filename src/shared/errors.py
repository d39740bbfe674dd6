"""One tree of errors. Each has a stable `code` and the HTTP status of its answer.

`docs/errors.md` has one section per code; a test compares the two.
"""

from typing import Any, ClassVar


class DreamForgeError(Exception):
    """Base of every error that may reach a user: `message` says what, which, and what to do."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    retry_after_s: int | None = None  # goes into `Retry-After`

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidInput(DreamForgeError):
    """`details.errors` lists each finding with its `field`, `message` and limits.

    A single one is given as `field` with its limits, which stay in `details` as well.
    """

    code = "invalid_input"
    http_status = 422

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message, **details)
        if "errors" not in details:
            field = details.get("field", "")
            finding = {"field": field, "message": message.removeprefix(f"{field}: ")}
            self.details["errors"] = [finding | details]


class Unauthorized(DreamForgeError):
    """No key, or one that is not known; goes out with `WWW-Authenticate: Bearer`."""

    code = "unauthorized"
    http_status = 401


class NotFound(DreamForgeError):
    code = "not_found"
    http_status = 404


class MethodNotAllowed(DreamForgeError):
    code = "method_not_allowed"
    http_status = 405


class Conflict(DreamForgeError):
    code = "conflict"
    http_status = 409


class PayloadTooLarge(DreamForgeError):
    code = "payload_too_large"
    http_status = 413


class RateLimited(DreamForgeError):
    """One bound of the API is reached; `details` say which, how much it allows, and when."""

    code = "rate_limited"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: int, **details: Any) -> None:
        super().__init__(message, **details, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class InfraUnavailable(DreamForgeError):
    """A part that we depend on cannot be reached.

    `reason` is what the part or its driver said. Logs and the command line show it (`str`); an
    answer to a client has the message alone.
    """

    code = "infra_unavailable"
    http_status = 503
    retry_after_s = 5

    def __init__(self, message: str, *, reason: str = "", **details: Any) -> None:
        super().__init__(message, **details)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})" if self.reason else self.message


class ModelUnavailable(DreamForgeError):
    code = "model_unavailable"
    http_status = 422


class InsufficientVram(DreamForgeError):
    code = "insufficient_vram"
    http_status = 422


class Internal(DreamForgeError):
    pass
