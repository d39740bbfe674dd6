"""What every command prints with. The consoles load with the first line, not with `--help`."""

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from io import TextIOWrapper
from typing import Any

from shared.printable import escape_controls


class Output(StrEnum):
    """Columns for people, JSON for programs."""

    TABLE = "table"
    JSON = "json"


def accept_all_text() -> None:
    """Show what the terminal's encoding lacks as its escape, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_note(line: str) -> None:
    """Print a note for the person at the terminal, on stderr."""
    from cli.terminal import console

    console.err.print(escape_controls(line, keep="\n"))  # else rich drops some without a trace


def print_line(line: object, style: str | None = None) -> None:
    """Print one line of a result, or a text of several; the window's width does not cut it."""
    from cli.terminal import console

    console.out.print(line, style=style, soft_wrap=True)


def print_lines(lines: Iterable[str]) -> None:
    """Print a log of any length: without the console, which takes longer than the API."""
    for line in lines:
        sys.stdout.write(escape_controls(line) + "\n")


def print_json(value: Any) -> None:
    """Print a result for programs."""
    sys.stdout.write(to_json(value, indent=2) + "\n")


def to_json(value: Any, **form: Any) -> str:
    """JSON of ASCII signs that print: the only other one that JSON leaves as it is, is DEL."""
    return json.dumps(value, **form).replace("\x7f", "\\u007f")
