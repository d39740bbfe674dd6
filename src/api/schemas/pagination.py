"""Opaque page cursors: where the next page begins.

Of jobs, the (created_at, id) of the last one; of usage, the (day, user, value of the tag, model) of
the last row.
"""

import base64
import binascii
import re
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from shared.db.usage import Usage
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


# The day as a number, two names in their own letters, and the bytes of a tag's value, which may be
# any text. Every text of this form is a cursor.
USAGE_CURSOR_PATTERN = (
    "^[1-9][0-9]{5}~[a-z0-9_-]{1,64}~[A-Za-z0-9._@-]{0,257}(~([0-9a-f][0-9a-f]){1,1024})?$"
)


def encode_usage(row: Usage) -> str:
    value = f"~{row.tag_value.encode().hex()}" if row.tag_value else ""
    return f"{row.day.toordinal()}~{row.user}~{row.model}{value}"


def decode_usage(cursor: str) -> tuple[date, str, str, str]:
    """Raises `InvalidInput` for what has not the form of what `encode_usage` makes."""
    if re.fullmatch(USAGE_CURSOR_PATTERN, cursor) is None:
        raise invalid_cursor()
    day, user, model, value = (*cursor.split("~"), "")[:4]
    # Bytes that are no text are a place between two texts, like any other; PostgreSQL takes no NUL.
    text = bytes.fromhex(value).decode(errors="replace").replace("\0", "\ufffd")
    return date.fromordinal(int(day)), user, text, model


def invalid_cursor() -> InvalidInput:
    return InvalidInput("cursor: not a `next_cursor` of an earlier page", field="cursor")
