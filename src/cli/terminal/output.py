"""What every command prints with. The consoles load with the first line, not with `--help`."""

import json
import sys
from enum import StrEnum
from typing import Any


class Output(StrEnum):
    """Columns for people, JSON for programs."""

    TABLE = "table"
    JSON = "json"


def print_note(line: str) -> None:
    """Print a note for the person at the terminal, on stderr."""
    from cli.terminal import console

    console.err.print(_escape(line))


def print_line(line: object, style: str | None = None) -> None:
    """Print one line of a result; the window's width does not cut it."""
    from cli.terminal import console

    console.out.print(line, style=style, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a result for programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _escape(text: str) -> str:
    """Show control characters of names and errors that others wrote, instead of sending them."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )
