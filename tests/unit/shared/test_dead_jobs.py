"""A dead job says why, whatever stands in its column of JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from api.schemas import serializers
from shared.db.dead_letters import DeadJob

LAST = {"code": "runner_crashed", "message": "x"}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        ({"code": "c", "message": "m", "details": {"last_error": LAST}}, "runner_crashed: x"),
        ({"code": "c", "message": "m", "details": {"last_error": {"code": "x"}}}, "x: m"),
        ({"code": "c", "message": "m", "details": {}}, "c: m"),
        ({"code": "c", "message": "m", "details": 5}, "c: m"),
        ({"code": "c", "message": "m", "details": {"last_error": "x"}}, "c: m"),
        ({"details": [1]}, "attempts_exhausted: "),
        ({}, "attempts_exhausted: "),
        ("x", "attempts_exhausted: "),
        ([{}], "attempts_exhausted: "),
        (5, "attempts_exhausted: "),
    ],
    ids=str,
)  # fmt: skip
def test_a_dead_job_says_why(error: Any, why: str) -> None:
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    job = DeadJob(
        id=UUID(int=1), type="generate", user="u", created_at=moment, finished_at=moment,
        error=error, request={}, replay_of=None,
    )  # fmt: skip
    assert job.why == why
    assert serializers.dead_job(job, "u").reason == why
