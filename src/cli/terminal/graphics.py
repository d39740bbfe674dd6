"""Ways to show a picture in a terminal, and which one this terminal has.

Nothing of a picture reaches the terminal as it came: it is decoded, and encoded anew as base64 or
sixels. Where Pillow is missing (the API's image), or POSIX terminals are, nothing is shown.
"""

from __future__ import annotations

import base64
import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

from cli.terminal import sixel
from cli.terminal.console import SafeConsole

if TYPE_CHECKING:
    from PIL.Image import Image

    from cli.terminal.query import Answers

_SIXEL = 4  # among the device attributes
_ITERM_IMAGES = ("iTerm2", "WezTerm", "mintty")  # as they answer
_ITERM_PROGRAMS = ("iTerm.app", "WezTerm")  # as the environment names them
# Those that print what they do not know, and have no pictures.
_PLAIN_TERMS = ("", "dumb", "linux")
_PLAIN_PROGRAMS = ("Apple_Terminal",)
_KITTY_CHUNK = 4096  # the most that its protocol allows


class Graphics(Protocol):
    """A protocol of a terminal. Sequences start and end in any column; the cursor may move."""

    def draw(self, picture: Image, rows: int) -> str:
        """Draw it at the cursor, `rows` cells high."""
        ...

    def remove(self) -> str:
        """Take away what erasing its cells leaves."""
        ...


class Kitty:
    """kitty's graphics protocol; Ghostty, Konsole and WezTerm know it too."""

    def __init__(self) -> None:
        self._id = os.getpid()  # a picture replaces the one before with the same number

    def draw(self, picture: Image, rows: int) -> str:
        data = _base64_png(picture)
        chunks = [data[at : at + _KITTY_CHUNK] for at in range(0, len(data), _KITTY_CHUNK)]
        # C=1: the cursor stays; q=2: it does not answer; r: so many cells high.
        first = f"a=T,f=100,i={self._id},p=1,r={rows},C=1,q=2,"
        last = len(chunks) - 1
        return "".join(
            f"\x1b_G{first if index == 0 else 'q=2,'}m={int(index < last)};{chunk}\x1b\\"
            for index, chunk in enumerate(chunks)
        )

    def remove(self) -> str:
        return f"\x1b_Ga=d,d=I,i={self._id},q=2\x1b\\"


class ITerm2:
    """Inline images of iTerm2."""

    def draw(self, picture: Image, rows: int) -> str:
        data = _base64_png(picture)
        form = f"inline=1;height={rows};width=auto;preserveAspectRatio=1;size={_size(data)}"
        return f"\x1b]1337;File={form}:{data}\x07"

    def remove(self) -> str:
        return ""


@dataclass(frozen=True, slots=True)
class Sixel:
    """Sixels know pixels only, so this needs the height of a cell."""

    cell_height: int

    def draw(self, picture: Image, rows: int) -> str:
        height = rows * self.cell_height
        width = max(1, round(picture.width * height / picture.height))
        return sixel.encode(picture.resize((width, height)))

    def remove(self) -> str:
        return ""


def find_graphics(
    out: SafeConsole, err: SafeConsole, environ: Mapping[str, str]
) -> Graphics | None:
    """How the terminal shows pictures; None where it does not, or is none."""
    if not (out.file.isatty() and err.file.isatty()):
        return None
    if not all(map(importlib.util.find_spec, ("PIL", "termios"))):
        return None
    if environ.get("TERM", "") in _PLAIN_TERMS or environ.get("TERM_PROGRAM") in _PLAIN_PROGRAMS:
        return None
    from cli.terminal.query import query

    answers = query(err)
    return None if answers is None else choose(answers, environ)


def choose(answers: Answers, environ: Mapping[str, str]) -> Graphics | None:
    """The best of those that the terminal has by its answers."""
    if answers.kitty:
        return Kitty()
    # An older iTerm2 does not say its name. Inside of tmux the variable is about what is around it.
    named = not answers.name and "TMUX" not in environ
    if answers.name.startswith(_ITERM_IMAGES) or (
        named and environ.get("TERM_PROGRAM") in _ITERM_PROGRAMS
    ):
        return ITerm2()
    if _SIXEL in answers.attributes and answers.cell is not None:
        return Sixel(answers.cell[0])
    return None


def rows_for(picture: Image, *, rows: int, columns: int) -> int:
    """How many cells high it is drawn, in a space of so many; a cell is twice as high as wide."""
    return max(1, min(rows, math.floor(columns * picture.height / picture.width / 2)))


def _base64_png(picture: Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _size(data: str) -> int:
    return len(data) // 4 * 3 - data.count("=")
