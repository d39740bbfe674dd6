"""How results are printed."""

from __future__ import annotations

from enum import StrEnum


class Output(StrEnum):
    """Columns for people, JSON for programs."""

    TABLE = "table"
    JSON = "json"
