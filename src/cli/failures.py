"""What ends a command: one message, a hint, an exit code. `entry.main` turns it into lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OK, JOB_FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3

_HINTS = {
    "not_found": "`dreamforge job list` shows the jobs that there are",
    "infra_unavailable": "`dreamforge doctor` says which part is away",
    "model_unavailable": "`dreamforge model list` shows the models that there are",
    "insufficient_vram": "choose a smaller preset or model; nothing is ever shrunk by itself",
    "unauthorized": "set DF_API_KEY to one of the keys that this API knows",
    "rate_limited": "wait as long as `retry_after_s` says, then send the same again",
}


class Failure(Exception):
    """A command cannot do what it was asked."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class Unreachable(Failure):
    def __init__(self, api_base: str, why: str) -> None:
        super().__init__(
            f"cannot reach the API at {api_base}: {why}",
            hint="start it with `dreamforge up`, or set DF_API_BASE to where it is",
            exit_code=UNREACHABLE,
        )


class Refused(Failure):
    """The API answered with an error envelope."""

    def __init__(self, envelope: Mapping[str, Any]) -> None:
        code = str(envelope.get("code", "internal"))
        lines = [str(envelope.get("message", "the API answered with an error"))]
        lines += [f"  {name}: {_plain(value)}" for name, value in _details(envelope)]
        super().__init__(
            "\n".join(lines),
            hint=_HINTS.get(code, ""),
            exit_code=UNREACHABLE if code == "infra_unavailable" else USAGE,
        )
        self.code = code


def _details(envelope: Mapping[str, Any]) -> list[tuple[str, Any]]:
    details = envelope.get("details")
    return list(details.items()) if isinstance(details, Mapping) else []


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return str(value)
