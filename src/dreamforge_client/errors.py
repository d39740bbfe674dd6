"""What a call of the client raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamforge_client.shapes import Job

# Refusals that the same request may not meet later.
_PASSING = {"infra_unavailable", "rate_limited"}


class ClientError(Exception):
    """Base of all of them."""

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later."""
        return False


class Unreachable(ClientError):
    """No answer came from `address`: it is away, or the connection broke."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"cannot reach {address}: {why}")
        self.address = address
        self.why = why

    @property
    def passes(self) -> bool:
        return True


class Refused(ClientError):
    """The API answered with an error; docs/errors.md has a section for each `code`."""

    def __init__(self, envelope: Mapping[str, Any], *, retry_after_s: float = 0.0) -> None:
        self.envelope = envelope
        self.code = str(envelope.get("code", "internal"))
        self.message = str(envelope.get("message", "the API answered with an error"))
        details = envelope.get("details")
        self.details: Mapping[str, Any] = details if isinstance(details, Mapping) else {}
        self.correlation_id = envelope.get("correlation_id")
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.message} ({self.code})")

    @property
    def passes(self) -> bool:
        return self.code in _PASSING


class Unexpected(ClientError):
    """What answers at the address is not Dream Forge's API, or not its store."""


class JobUnsuccessful(ClientError):
    """The job failed or was cancelled; `job.error` says why."""

    def __init__(self, job: Job) -> None:
        error = job.error or {}
        super().__init__(
            f"job {job.id} {job.status}: {error.get('message', 'no reason given')}"
            + (f" ({error['code']})" if "code" in error else "")
        )
        self.job = job
