"""Names that are twice in a request's body or query: one of the two would have no effect."""

from collections.abc import Iterable

from fastapi import Request

from api.errors import printable
from shared.errors import InvalidInput

# Parameters that may be given several times, and all count.
LISTS = {"tag"}


async def refuse_in_query(request: Request) -> None:
    """A dependency of every operation. Raises `InvalidInput`."""
    names = (name for name, _ in request.query_params.multi_items())
    refuse_duplicates(name for name in names if name not in LISTS)


def refuse_duplicates(names: Iterable[str]) -> None:
    """Raise `InvalidInput` for the first name that is there a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            field = printable(name)
            raise InvalidInput(f"{field}: is there more than once", field=field)
        seen.add(name)
