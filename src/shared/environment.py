"""Variables of the environment, before they are settings."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def without_blanks(values: Mapping[str, T]) -> dict[str, T]:
    """Those that say something: text of white space alone is as if its line were not there.

    Compose writes `NAME: ${NAME:-}` for a variable that is not set, and an operator empties a line
    in place of deleting it. Neither means a model called "", or a port that is no number.
    """
    return {name: value for name, value in values.items() if not _is_blank(value)}


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()
