"""What ends a command: one message, a hint, an exit code. `main.run` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

# 1: the command ran and its work ended badly. 2: the command line or the request is wrong.
# 3: a server is away; the same command may work later. Commands that are killed: 128 + signal.
JOB_FAILED = STACK_FAILED = 1
USAGE, UNREACHABLE = 2, 3

_HINTS = {
    "invalid_input": "`--help` has the options, `dreamforge model get MODEL` what a model takes",
    "not_found": "`dreamforge job list` shows the jobs that there are",
    "conflict": "take another --idempotency-key, or none; the same key means the same request",
    "payload_too_large": "a request is a few kilobytes: look at what else is in it",
    "infra_unavailable": "`dreamforge doctor` says which part is away",
    "model_unavailable": "`dreamforge model list` shows the models that there are",
    "insufficient_vram": "choose a smaller preset or model; nothing is ever shrunk by itself",
    "unauthorized": "set DF_API_KEY to one of the keys that this API knows",
    "rate_limited": "wait as long as `retry_after_s` says, then send the same again",
    "internal": "a bug of ours: please report it, with the correlation id",
}
# The request is not wrong: the same one may work later.
_LATER = {"infra_unavailable", "rate_limited", "internal"}
# The operator finds these in the log of the API by the correlation id.
_LOGGED = {"infra_unavailable", "internal"}


class Failure(Exception):
    """A command cannot do what it was asked."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class StackError(Failure):
    """A part of the stack cannot start or died for good, or the machine is not fit for it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=STACK_FAILED)


class Unreachable(Failure):
    def __init__(self, api_base: str, why: str) -> None:
        super().__init__(
            f"cannot reach the API at {api_base}: {why}",
            hint="start it with `dreamforge up`, or set DF_API_BASE to where it is",
            exit_code=UNREACHABLE,
        )


class Refusal(Failure):
    """The API answered with an error envelope."""

    def __init__(self, envelope: Mapping[str, Any], *, retry_after_s: float = 0.0) -> None:
        self.code = str(envelope.get("code", "internal"))
        self.retry_after_s = retry_after_s
        message = str(envelope.get("message", "the API answered with an error"))
        lines = [message, *_details(message, envelope.get("details"))]
        if self.code in _LOGGED and "correlation_id" in envelope:
            lines.append(f"  correlation id: {envelope['correlation_id']}")
        super().__init__(
            "\n".join(lines),
            hint=_HINTS.get(self.code, ""),
            exit_code=UNREACHABLE if self.code in _LATER else USAGE,
        )


def first_problem(error: ValidationError) -> str:
    """The first field that Pydantic refuses, and why."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _details(message: str, details: Any) -> list[str]:
    """The details that the message does not hold already, a line each."""
    if not isinstance(details, Mapping):
        return []
    errors = details.get("errors")
    if not isinstance(errors, list):
        return [f"  {name}: {_plain(value)}" for name, value in details.items()]
    findings = [error for error in errors if isinstance(error, Mapping)]
    if findings and str(findings[0].get("message")) in message:  # the first one, as a rule
        findings = findings[1:]
    return [f"  {error.get('field')}: {error.get('message')}" for error in findings]


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return str(value)
