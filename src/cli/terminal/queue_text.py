"""A job's place in the queue, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamforge_client import answers


def queue_text(queue: answers.Queue | Mapping[str, Any]) -> str:
    """`position 3, starts in 12 to 40 s`, from the API's `queue`."""
    position = f"position {queue['position']}{'' if queue.get('exact', True) else ' or more'}"
    span = queue.get("starts_in_s")
    return position if span is None else f"{position}, starts in {_span(span['low'], span['high'])}"


def _span(low_s: int, high_s: int) -> str:
    """In the unit that suits the longer time."""
    for unit, seconds in (("h", 3600), ("min", 60)):
        if high_s >= 3 * seconds:
            return f"{low_s // seconds} to {-(-high_s // seconds)} {unit}"
    return f"{low_s} to {high_s} s"
