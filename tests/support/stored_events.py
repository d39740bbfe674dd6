"""Events of a job as the database returns them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared.db.events import Event

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB_ID = UUID(int=1)


def stored_event(
    seq: int, code: str, payload: dict[str, Any] | None = None, *, job_id: UUID = JOB_ID
) -> Event:
    return Event(
        job_id=job_id,
        seq=seq,
        ts=NOW,
        level="INFO",
        code=code,
        message="",
        step_id=None,
        item_index=None,
        payload=payload,
    )
