"""Results in columns, for people; `--output json` is for programs.

Columns are as wide as what they hold. A table that fits itself into the window cuts ids and
addresses, and a cut id is of no use.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cli.terminal.output import Output, print_json, print_line
from shared.printable import escape_controls

_GAP = "  "


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows below their heads."""
    lines = [[escape_controls(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    _print_cells(heads, widths, style="bold")
    for line in lines:
        _print_cells(line, widths)


def print_list(
    value: Any, output: Output, heads: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Print a result as JSON, or its rows below their heads."""
    if output is Output.JSON:
        print_json(value)
    else:
        print_table(heads, rows)


def print_pairs(*rows: tuple[str, Any]) -> None:
    """Print names and values; those without a value are left out. Nested ones are JSON."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        if value is not None:
            text = json.dumps(value) if isinstance(value, dict | list) else str(value)
            # One line: a value of several could pass for more names and values.
            _print_cells((name, escape_controls(text)), (width, 0))


def print_record(record: Mapping[str, Any], output: Output, *rows: tuple[str, Any]) -> None:
    """Print one record as JSON, or as names and values: the `rows`, or else all that it holds."""
    if output is Output.JSON:
        print_json(record)
    else:
        print_pairs(*(rows or record.items()))


def _print_cells(cells: Sequence[str], widths: Sequence[int], style: str | None = None) -> None:
    text = _GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    print_line(text.rstrip(), style)
