"""How values of PostgreSQL that Python has none for are read: as the nearest that it has.

PostgreSQL's moments reach from 4713 BC to the year 294276, and to infinity on both sides; its JSON
holds numbers of a hundred thousand digits. The driver raises for one of them, and with the row that
has it the whole answer fails, or each worker that looks at it ends. No release of ours writes such
values, people and older tools may (`shared.db.stored_json`).

In SQL no moment is an error, but a span to an infinite one is infinite, and sums never forget it.
So spans between moments of rows are made here.
"""

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.json import set_json_loads
from sqlalchemy import ColumnElement, Float, case, cast, func

from shared.typed_json import MOST_LEVELS, is_deeper

# Every moment that we write lies between. They leave room for ages of a hundred years, and pages
# of lists can begin at them (`api.schemas.pagination`).
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(8000, 1, 1, tzinfo=UTC)
# In place of JSON that cannot be parsed: of no shape that a reader accepts, and not null.
UNREADABLE = "unreadable"

_TIMESTAMPTZ = "timestamptz"
_DRIVERS = psycopg.adapters.get_loader(psycopg.adapters.types[_TIMESTAMPTZ].oid, Format.TEXT)


class _MomentLoader(Loader):
    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        assert _DRIVERS is not None
        self._load = _DRIVERS(oid, context).load

    def load(self, data: Buffer) -> datetime:
        try:
            moment: datetime = self._load(data)
        except psycopg.DataError:  # before the year 1, or after 9999
            text = bytes(data)
            return EARLIEST if text.startswith(b"-") or text.endswith(b"BC") else LATEST
        return min(max(moment, EARLIEST), LATEST)


def read_all_values(connection: psycopg.BaseConnection[Any]) -> None:
    """Make this connection read what the driver cannot."""
    connection.adapters.register_loader(_TIMESTAMPTZ, _MomentLoader)
    set_json_loads(_parse, connection)


def _parse(text: str | bytes) -> Any:
    """The value of a JSON text. One that is nested too deep could not be written into an answer."""
    raw = text.encode() if isinstance(text, str) else text
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return UNREADABLE
    may_be_deep = raw.count(b"{") + raw.count(b"[") > MOST_LEVELS  # few are looked through
    return UNREADABLE if may_be_deep and is_deeper(value, MOST_LEVELS) else value


def known(moment: datetime | None) -> datetime | None:
    """The moment; None for one that stands for others, which no time can be counted from."""
    return moment if moment is not None and EARLIEST < moment < LATEST else None


def seconds(until: Any, since: Any) -> ColumnElement[float]:
    """From one moment to another; null where one of them is none, or infinite."""
    span = until - since
    return case((func.isfinite(span), cast(func.extract("epoch", span), Float)))


def seconds_sql(span: str) -> str:
    """The same in SQL, of a difference between two moments."""
    return f"CASE WHEN isfinite({span}) THEN extract(epoch FROM {span})::float END"
