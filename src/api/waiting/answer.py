"""A place in the line as clients get it."""

import math

from api.schemas.responses import QueueOut, SecondsOut
from api.waiting.forecast import Place

# More digits than these would be noise.
DIGITS = 2


def queue_out(place: Place, age_s: float) -> QueueOut:
    """The answer, `age_s` after the line was read. Seconds are rounded outwards."""
    span = place.starts_in_s
    return QueueOut(
        position=place.position,
        exact=place.exact,
        starts_in_s=None
        if span is None
        else SecondsOut(low=_down(span.low - age_s), high=_up(span.high - age_s)),
    )


def _down(seconds: float) -> int:
    unit = _unit(seconds)
    return max(0, math.floor(seconds / unit) * unit)


def _up(seconds: float) -> int:
    unit = _unit(seconds)
    return max(1, math.ceil(seconds / unit) * unit)


def _unit(seconds: float) -> int:
    """1 below a hundred, 10 below a thousand, and so on."""
    return 1 if seconds < 1 else int(10 ** max(0, math.floor(math.log10(seconds)) - DIGITS + 1))
