"""Which trace something belongs to, as W3C Trace Context writes it in one header.

This module reads only text, so code that stores or sends it needs no tracing library.
https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SHAPE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 0x01
_NO_VERSION = "ff"


@dataclass(frozen=True, kw_only=True, slots=True)
class Traceparent:
    """A span of any process, and whether its trace is recorded. Ids are lower-case hex."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(text: str | None) -> Traceparent | None:
    """What the text says; None for anything that is not valid, which the standard says to ignore.

    A version that we do not know is read as far as we know it, and nothing may follow in ours.
    """
    match = _SHAPE.fullmatch(text or "")
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == _NO_VERSION or (version == "00" and more is not None):
        return None
    if not (int(trace_id, 16) and int(span_id, 16)):
        return None
    return Traceparent(trace_id=trace_id, span_id=span_id, sampled=bool(int(flags, 16) & _SAMPLED))


def incoming(headers: Sequence[str]) -> Traceparent | None:
    """What a request's headers of this name say; two of them say nothing."""
    return parse(headers[0].strip(" \t")) if len(headers) == 1 else None
