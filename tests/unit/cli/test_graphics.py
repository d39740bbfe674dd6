"""Pictures in terminals: what is sent decodes back, and stands where it should."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from tests.support.terminals import CELL, Kind, Terminal

from cli.terminal import console, progress_bar
from cli.terminal.console import SafeConsole
from cli.terminal.graphics import Graphics, ITerm2, Kitty, Sixel, choose, find_graphics, rows_for
from cli.terminal.output import print_note
from cli.terminal.progress_bar import show_progress
from cli.terminal.query import Answers, parse

PROTOCOLS: dict[Kind, Callable[[], Graphics]] = {
    "kitty": Kitty,
    "iterm2": ITerm2,
    "sixel": lambda: Sixel(CELL[0]),
}
# Colours that sixels, which count in percent, can say.
COLORS = [(0, 0, 0), (255, 0, 0), (0, 204, 51), (255, 255, 255), (102, 51, 153)]
STATEMENT = {"code": "job.created", "level": "INFO", "payload": None}
END = {"code": "job.finish", "level": "INFO", "payload": {"status": "succeeded"}}


def picture(width: int = 40, height: int = 40) -> Image.Image:
    image = Image.new("RGB", (width, height))
    for x in range(width):
        for y in range(height):
            image.putpixel((x, y), COLORS[(x // 7 + y // 5) % len(COLORS)])
    return image


def preview(color: tuple[int, int, int], side: int = 64) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).save(file, "JPEG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"code": "preview", "item_index": 0, "image": f"data:image/jpeg;base64,{data}"}


class TtyIO(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> SafeConsole:
    screen = SafeConsole(stderr=True)
    screen.file = TtyIO()
    screen.is_interactive = True
    screen.size = (80, 24)
    monkeypatch.setattr(SafeConsole, "is_terminal", True)
    monkeypatch.setattr(console, "err", screen)
    monkeypatch.setattr(progress_bar, "err", screen)
    return screen


def terminal_of(screen: SafeConsole, kind: Kind) -> Terminal:
    terminal = Terminal(kind)
    assert isinstance(screen.file, io.StringIO)
    terminal.feed(screen.file.getvalue().encode("latin-1", "replace"))
    return terminal


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("size", [(40, 40), (41, 40), (200, 40), (1, 40)])
def test_what_is_drawn_decodes_back(kind: Kind, size: tuple[int, int]) -> None:
    image = picture(*size)
    terminal = Terminal(kind)
    terminal.feed(PROTOCOLS[kind]().draw(image, 2).encode("ascii"))
    (shown,) = terminal.shown
    assert shown.rows == 2
    assert shown.image.convert("RGB").tobytes() == image.tobytes()


def test_a_picture_of_many_colours_loses_little_as_sixels() -> None:
    gradient = Image.merge(
        "RGB", [Image.linear_gradient("L").resize((96, 96)).rotate(90 * n) for n in range(3)]
    )
    terminal = Terminal("sixel")
    terminal.feed(Sixel(16).draw(gradient, 6).encode("ascii"))
    (shown,) = terminal.shown
    assert shown.image.size == gradient.size
    a, b = (each.resize((16, 16)).tobytes() for each in (gradient, shown.image))
    assert sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a) < 6


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_previews_take_turns_in_one_place_above_the_bar(screen: SafeConsole, kind: Kind) -> None:
    events = [STATEMENT, preview((200, 0, 0)), preview((0, 0, 200))]
    followed = show_progress(events, PROTOCOLS[kind]())
    for _ in events:
        next(followed)
    terminal = terminal_of(screen, kind)
    first, second = terminal.drawn
    assert (first.top, first.rows) == (second.top, second.rows)
    (now,) = terminal.shown
    assert now.image.convert("RGB").getpixel((3, 3))[2] > 150  # type: ignore[index]
    assert terminal.row == now.top + now.rows  # the bar's line
    assert terminal.lines[terminal.row].startswith("queue")
    list(followed)


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_note_takes_the_picture_away_and_the_next_one_stands_below(
    screen: SafeConsole, kind: Kind
) -> None:
    print_note("job 1")
    note = {"code": "retry", "level": "WARNING", "message": "tried again", "payload": None}
    events = [preview((200, 0, 0)), note, preview((0, 0, 200)), END]
    followed = show_progress(events, PROTOCOLS[kind]())
    for _ in events:
        next(followed)
    terminal = terminal_of(screen, kind)
    (now,) = terminal.shown
    assert terminal.lines[:2] == ["job 1", "tried again"]
    assert now.top == 2
    list(followed)
    terminal = terminal_of(screen, kind)
    assert terminal.shown == []
    lines = terminal.text().splitlines()
    assert [line.split(" ")[0] for line in lines] == ["job", "tried", "done"]


def test_a_small_window_has_room_for_picture_and_bar(screen: SafeConsole) -> None:
    screen.size = (30, 6)
    list(show_progress([preview((9, 9, 9)), preview((0, 0, 9)), END], Kitty()))
    assert isinstance(screen.file, io.StringIO)
    terminal = Terminal("kitty", height=6)
    terminal.feed(screen.file.getvalue().encode("latin-1", "replace"))
    assert [each.rows for each in terminal.drawn] == [3, 3]


@pytest.mark.parametrize(
    "image",
    [
        "data:image/jpeg;base64,AAAA",
        "data:image/jpeg;base64,/9j\x1b]0;owned\x07",
        "data:image/png;base64,AAAA",
        preview((1, 1, 1), side=513)["image"],
    ],
)
def test_what_is_no_small_picture_is_said_once_and_not_sent_on(
    screen: SafeConsole, image: str
) -> None:
    bad = {"code": "preview", "item_index": 0, "image": image}
    list(show_progress([bad, bad, preview((1, 1, 1)), END], Kitty()))
    assert isinstance(screen.file, io.StringIO)
    written = screen.file.getvalue()
    assert written.count("previews are not shown") == 1
    assert "owned\x07" not in written
    assert terminal_of(screen, "kitty").sequences == 0


def test_without_graphics_a_preview_is_nothing(screen: SafeConsole) -> None:
    list(show_progress([preview((1, 1, 1)), END]))
    assert terminal_of(screen, "kitty").sequences == 0


@pytest.mark.parametrize(
    ("received", "said"),
    [
        (b"", None),
        (b"keys\x1b[6;20;10t", None),
        (b"\x1b[?6c", {}),
        (b"\x1b_Gi=31;OK\x1b\\\x1b[?62;c", {"kitty": True}),
        (b"\x1b_Gi=31;ENOTSUPPORTED:no\x1b\\\x1b[?62c", {}),
        (b"\x1bP>|iTerm2 3.5.0\x1b\\\x1b[?64;4c", {"name": "iTerm2 3.5.0", "attributes": {4}}),
        (b"\x1b[6;20;10t\x1b[?62;4;22c", {"cell": (20, 10), "attributes": {4, 22}}),
        (b"\x1b[6;0;0t\x1b[?62;4c", {"attributes": {4}}),
        (b"j\x1b[A\x1b[?62;4c", {"attributes": {4}}),  # with keys of a hasty user
    ],
)
def test_the_answers_of_a_terminal_are_read(received: bytes, said: dict[str, Any] | None) -> None:
    assert parse(received) == (None if said is None else answers(**said))


def answers(**facts: Any) -> Answers:
    none: dict[str, Any] = {"kitty": False, "name": "", "cell": None, "attributes": frozenset()}
    return Answers(**none | facts)


@pytest.mark.parametrize(
    ("facts", "environ", "graphics"),
    [
        ({"kitty": True, "attributes": frozenset({4}), "cell": CELL}, {}, Kitty),
        ({"name": "iTerm2 3.5.0"}, {}, ITerm2),
        ({"name": "WezTerm 20240203"}, {}, ITerm2),
        ({}, {"TERM_PROGRAM": "iTerm.app"}, ITerm2),
        ({}, {"TERM_PROGRAM": "iTerm.app", "TMUX": "/tmp/1"}, None),
        ({"name": "XTerm(390)"}, {"TERM_PROGRAM": "iTerm.app"}, None),
        ({"attributes": frozenset({4, 22}), "cell": CELL}, {}, Sixel),
        ({"attributes": frozenset({4, 22})}, {}, None),
        ({"attributes": frozenset({22}), "cell": CELL}, {"KITTY_WINDOW_ID": "1"}, None),
    ],
)
def test_a_terminal_is_taken_at_its_word(
    facts: dict[str, Any], environ: dict[str, str], graphics: type[Graphics] | None
) -> None:
    chosen = choose(answers(**facts), environ)
    assert (None if chosen is None else type(chosen)) is graphics


def test_what_is_no_terminal_is_not_asked(screen: SafeConsole) -> None:
    pipe = SafeConsole()
    pipe.file = io.StringIO()
    environ = {"TERM": "xterm-kitty"}
    assert find_graphics(pipe, screen, environ) is None
    assert find_graphics(screen, pipe, environ) is None
    for plain in (
        {"TERM": "dumb"},
        {"TERM": "linux"},
        {},
        environ | {"TERM_PROGRAM": "Apple_Terminal"},
    ):
        assert find_graphics(screen, screen, plain) is None
    assert isinstance(screen.file, io.StringIO)
    assert screen.file.getvalue() == ""


@pytest.mark.parametrize(
    ("size", "rows"), [((64, 64), 16), ((512, 64), 5), ((64, 512), 16), ((512, 1), 1)]
)
def test_a_wide_picture_is_lower_so_that_it_fits(size: tuple[int, int], rows: int) -> None:
    assert rows_for(Image.new("RGB", size), rows=16, columns=80) == rows
