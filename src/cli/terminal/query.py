"""What the terminal says about itself.

All questions are sent at once, and last the one that every terminal answers: its device attributes
(DA1). That answer ends the wait, so a terminal that knows nothing of pictures costs one round trip.
Who answers nothing is waited for once, and shows no pictures. The environment alone would not do:
it is inherited by terminals that are started from others, and lost on the way to another host.

Keys that are pressed during the round trip are lost.
"""

from __future__ import annotations

import os
import re
import select
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cli.terminal.console import SafeConsole, TerminalSequence

# Over a line around the world, with an answer that does not fit into one packet.
DEADLINE_S = 1.0
MOST_BYTES = 4096
KITTY_ID = 31

_DEVICE_ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
_NAME = re.compile(rb"\x1bP>\|([\x20-\x7e]*)\x1b\\")
_CELL = re.compile(rb"\x1b\[6;(\d{1,4});(\d{1,4})t")
_KITTY = re.compile(rb"\x1b_Gi=%d[^\x1b]*;OK\x1b\\" % KITTY_ID)
_QUESTIONS = (
    f"\x1b_Gi={KITTY_ID},s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"  # may I send a picture of one pixel
    "\x1b[>q"  # name and version
    "\x1b[16t"  # height and width of a cell in pixels
    "\x1b[c"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """`cell` is height and width in pixels, `attributes` are those after the terminal's class."""

    kitty: bool
    name: str
    cell: tuple[int, int] | None
    attributes: frozenset[int]


def query(console: SafeConsole) -> Answers | None:
    """The answers of the terminal that `console` writes to; None where it gives none in time."""
    terminal = _open_terminal(console)
    if terminal is None:
        return None
    try:
        with _answers_unseen(terminal):
            console.control(TerminalSequence(_QUESTIONS))
            received = _read(terminal, DEADLINE_S)
    finally:
        os.close(terminal)
    return parse(received)


def parse(received: bytes) -> Answers | None:
    """What it said; None where the last answer is missing."""
    attributes = _DEVICE_ATTRIBUTES.search(received)
    if attributes is None:
        return None
    name, cell = _NAME.search(received), _CELL.search(received)
    sizes = None if cell is None else (int(cell[1]), int(cell[2]))
    return Answers(
        kitty=_KITTY.search(received) is not None,
        name="" if name is None else name[1].decode("ascii"),
        cell=sizes if sizes and all(sizes) else None,
        attributes=frozenset(int(each) for each in attributes[1].split(b";")[1:] if each),
    )


def _open_terminal(console: SafeConsole) -> int | None:
    """The terminal, to be read; None where it is none, or another program's turn.

    A process in the background that changed its settings would be stopped (SIGTTOU).
    """
    try:
        terminal = os.open(os.ttyname(console.file.fileno()), os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if os.tcgetpgrp(terminal) == os.getpgrp():
            return terminal
    except OSError:  # it is not the one that this process belongs to
        pass
    os.close(terminal)
    return None


@contextmanager
def _answers_unseen(terminal: int) -> Iterator[None]:
    """Give bytes as they arrive, and show them to no one."""
    before = termios.tcgetattr(terminal)
    raw = list(before)
    raw[3] &= ~(termios.ECHO | termios.ICANON)
    raw[6] = [*before[6]]
    raw[6][termios.VMIN], raw[6][termios.VTIME] = 0, 0
    termios.tcsetattr(terminal, termios.TCSADRAIN, raw)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _read(terminal: int, deadline_s: float) -> bytes:
    """What arrives until the last answer is complete, or the deadline."""
    received = b""
    end = time.monotonic() + deadline_s
    while _DEVICE_ATTRIBUTES.search(received) is None and len(received) < MOST_BYTES:
        left_s = end - time.monotonic()
        if left_s <= 0 or not select.select([terminal], [], [], left_s)[0]:
            break
        data = os.read(terminal, MOST_BYTES)
        if not data:  # it hung up
            break
        received += data
    return received
