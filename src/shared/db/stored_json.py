"""What stands in the columns of JSON, as their readers can rely on it.

PostgreSQL holds such a column to be JSON and no more: a person, or an older tool, may have written
any value. A reader that trusts it fails with the whole answer, of which one row is a part, or ends
a worker that has other steps to run. So what a job could do without is left out here, and what it
needs is proven before its step runs, where a refusal ends this one step.
"""

import functools
import logging
import math
from typing import Annotated, Any, NotRequired, TypedDict
from urllib.parse import urlsplit
from uuid import UUID

from shared.typed_json import Mismatch, Rule, typed

log = logging.getLogger(__name__)


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _is_address(text: str) -> bool:
    try:
        return bool(urlsplit(text).netloc)
    except ValueError:
        return False


Id = Annotated[str, Rule("an id", _is_uuid)]


class Webhook(TypedDict):
    """`jobs.webhook`."""

    url: Annotated[str, Rule("an address", _is_address)]
    events: list[str]


class Lora(TypedDict):
    """One of `loras` in `steps.params`."""

    id: Id
    name: str
    version: str
    checkpoint_sha256: str


class Params(TypedDict):
    """`steps.params`, as far as a replay reads it."""

    loras: NotRequired[list[Lora]]


class Named(TypedDict):
    """One of `steps.inputs`, as far as a replay reads it."""

    id: Id


class Input(Named):
    """The same with all fields of `PinnedInput`."""

    item_index: int
    role: str
    format: str
    width: int
    height: int
    orientation: int
    s3_key: str
    sha256: str
    size_bytes: int


def mapping(column: object) -> dict[str, Any]:
    """The object in a column; an empty one where something else stands."""
    return column if isinstance(column, dict) else {}


def object_or_none(column: object) -> dict[str, Any] | None:
    """The object in a column; None where something else stands."""
    return column if isinstance(column, dict) else None


def texts(column: object) -> dict[str, str]:
    """The texts of an object, by their names."""
    return {name: each for name, each in mapping(column).items() if isinstance(each, str)}


def progress_in(payload: object) -> float:
    """How far a job is by the payload of an event, 0 to 1; 0 where it does not say."""
    value = mapping(payload).get("progress")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0.0
    return float(min(1, max(0, value)))


@functools.lru_cache(maxsize=256)
def report(problem: str) -> None:
    """Log what cannot be read, once: such a row is met again and again."""
    log.warning("%s", problem)


def webhook_of(job_id: UUID, column: object) -> Webhook | None:
    """A job's receiver; None where there is none, or one that nothing can be sent to."""
    if column is None:
        return None
    try:
        return typed(Webhook, column)
    except Mismatch as mismatch:
        report(f"job {job_id} has a webhook that cannot be sent to: {mismatch}")
        return None


def error_of(column: object) -> dict[str, Any]:
    """An error with code, message and details, from one that may lack any of them."""
    stored = mapping(column)
    code, message = stored.get("code"), stored.get("message")
    return stored | {
        "code": code if isinstance(code, str) else "internal",
        "message": message if isinstance(message, str) else "",
        "details": mapping(stored.get("details")),
    }
