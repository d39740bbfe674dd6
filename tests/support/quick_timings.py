"""The timings of a worker process under test: from the test, by an environment variable."""

from __future__ import annotations

import json
import os

from shared.timings import Timings

_VARIABLE = "TEST_TIMINGS"


def in_environment(**changes: float) -> dict[str, str]:
    """The variable that gives a worker module of `tests.support` these timings."""
    return {_VARIABLE: json.dumps(changes)}


def from_environment(**usual: float) -> Timings:
    """Ours, and over them what the test said."""
    return Timings(**(usual | json.loads(os.environ.get(_VARIABLE, "{}"))))
