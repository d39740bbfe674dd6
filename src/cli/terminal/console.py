"""Two consoles: results on stdout, everything else on stderr, so that a pipe gets results only."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console

# Names, prompts and messages are shown as they are: no markup, no emoji codes, no colours of ours.
out = Console(highlight=False, emoji=False, markup=False)
err = Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def print_note(line: str) -> None:
    """A note for the person in front of the terminal."""
    err.print(_harmless(line))


def _harmless(text: str) -> str:
    """What others wrote (a file's name, an error) must not speak to the terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
