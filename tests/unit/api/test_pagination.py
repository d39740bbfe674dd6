"""Page cursors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest

from api.schemas.pagination import decode, encode
from shared.errors import InvalidInput


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC),
        datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(1970, 1, 1, tzinfo=UTC),
    ],
)
def test_a_cursor_gives_back_what_it_was_made_of_to_the_microsecond(moment: datetime) -> None:
    job_id = uuid4()
    assert decode(encode(moment, job_id)) == (moment, job_id)


@pytest.mark.parametrize(
    "text", ["", "x", "é", "aGVsbG8=", "../../etc/passwd", "_" * 32, "A" * 32 + "=", "A" * 4000]
)
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(text)
    assert caught.value.details == {
        "field": "cursor",
        "errors": [{"field": "cursor", "message": "not a `next_cursor` of an earlier page"}],
    }
