"""Opaque page cursors: the (created_at, id) after which the next page begins."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from uuid import UUID

from shared.errors import InvalidInput

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SIZE_BYTES = 8 + 16
# The form of every cursor and of nothing else: 24 bytes of base64, without padding. The first byte
# is 0, 1 or 2: later moments, from the year 8820 on, are more than `datetime` can hold.
CURSOR_PATTERN = "^A[A-Za-v][A-Za-z0-9_-]{30}$"


def encode(created_at: datetime, job_id: UUID) -> str:
    moment_us = (created_at - _EPOCH) // _MICROSECOND
    return base64.urlsafe_b64encode(moment_us.to_bytes(8, "big") + job_id.bytes).decode()


def decode(cursor: str) -> tuple[datetime, UUID]:
    """Raises `InvalidInput` for anything that `encode` did not make."""
    try:
        data = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
        if len(data) == _SIZE_BYTES:
            moment = _EPOCH + int.from_bytes(data[:8], "big") * _MICROSECOND
            job_id = UUID(bytes=data[8:])
            if encode(moment, job_id) == cursor:  # base64 has several spellings of the same bytes
                return moment, job_id
    except (binascii.Error, UnicodeEncodeError, OverflowError):
        pass
    raise invalid_cursor()


def invalid_cursor() -> InvalidInput:
    return InvalidInput("cursor: not a `next_cursor` of an earlier page", field="cursor")
