"""Names that are given twice, in a body or a query: one of the two would go unheard."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from api.errors import printable
from shared.errors import InvalidInput


async def refuse_in_query(request: Request) -> None:
    """A dependency of every operation. Raises `InvalidInput`."""
    _all_different([name for name, _ in request.query_params.multi_items()])


def refuse_in_body(body: bytes) -> None:
    """`body` has been read as JSON before. Raises `InvalidInput`."""
    json.loads(body, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> None:
    _all_different([name for name, _ in pairs])


def _all_different(names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            field = printable(name)
            raise InvalidInput(f"{field}: is there more than once", field=field)
        seen.add(name)
