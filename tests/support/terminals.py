"""A terminal that shows pictures, for tests: it answers questions, and decodes what it is sent."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from io import BytesIO
from typing import Literal

from PIL import Image

Kind = Literal["kitty", "iterm2", "sixel", "plain", "silent"]
CELL = (20, 10)  # height and width in pixels

_TOKEN = re.compile(
    rb"\x1b_G(?P<apc>[^\x1b]*)\x1b\\"
    rb"|\x1b\](?P<osc>[^\x07\x1b]*)(?:\x07|\x1b\\)"
    rb"|\x1bP(?P<dcs>[^\x1b]*)\x1b\\"
    rb"|\x1b\[(?P<csi>[?>]?[\d;]*[A-Za-z])"
    rb"|\x1b(?P<esc>[78])"
    rb"|(?P<text>[^\x1b])"
)


@dataclass
class Shown:
    """A picture on the screen, from line `top` on, `rows` lines high."""

    image: Image.Image
    top: int
    rows: int
    number: int | None = None  # of kitty's

    def covers(self, row: int) -> bool:
        return self.top <= row < self.top + self.rows


@dataclass
class Terminal:
    """As much of one as the command line uses. `answers` are bytes to be typed back."""

    kind: Kind
    height: int = 24
    lines: list[str] = field(default_factory=list)
    row: int = 0
    column: int = 0
    shown: list[Shown] = field(default_factory=list)  # what is on the screen now
    drawn: list[Shown] = field(default_factory=list)  # all that ever was
    answers: bytes = b""
    sequences: int = 0  # of graphics
    _rest: bytes = b""
    _chunks: bytes = b""
    _keys: dict[bytes, bytes] = field(default_factory=dict)
    _saved: tuple[int, int] = (0, 0)

    def feed(self, data: bytes) -> None:
        self._rest += data
        while match := _TOKEN.match(self._rest):
            self._rest = self._rest[match.end() :]
            kind = str(match.lastgroup)
            getattr(self, f"_see_{kind}")(match[kind])

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).strip()

    # Text and cursor ------------------------------------------------------------------------------

    def _see_text(self, byte: bytes) -> None:
        if byte == b"\n":
            self._line_feed()
        elif byte == b"\r":
            self.column = 0
        elif byte >= b" ":
            self._line_to(self.row)
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = (
                line[: self.column] + byte.decode("latin-1") + line[self.column + 1 :]
            )
            self.column += 1

    def _line_to(self, row: int) -> None:
        self.lines += [""] * (row + 1 - len(self.lines))

    def _line_feed(self) -> None:
        self.column = 0
        if self.row < self.height - 1:
            self.row += 1
            return
        self._line_to(self.row)
        del self.lines[0]
        self._move_pictures(0, -1)

    def _move_pictures(self, first: int, by: int) -> None:
        for each in self.shown:
            if each.top >= first:
                each.top += by

    def _see_esc(self, what: bytes) -> None:
        if what == b"7":
            self._saved = (self.row, self.column)
        else:
            self.row, self.column = self._saved

    def _see_csi(self, sequence: bytes) -> None:
        values, final = sequence[:-1], sequence[-1:]
        number = int(values) if values.isdigit() else 1
        match final:
            case b"A":
                assert self.row >= number, "above the screen"
                self.row -= number
            case b"K":
                self._line_to(self.row)
                self.lines[self.row] = ""
                self.shown = [
                    each for each in self.shown if each.number or not each.covers(self.row)
                ]
            case b"M":
                self._line_to(self.row + number)
                del self.lines[self.row : self.row + number]
                self._move_pictures(self.row + number, -number)
            case b"c":
                self._answer({"silent": b"", "sixel": b"\x1b[?62;4;22c"}, b"\x1b[?62;22c")
            case b"t" if values == b"16":
                self._answer({"silent": b""}, b"\x1b[6;%d;%dt" % CELL)
            case b"q" if values == b">":
                name = {"silent": b"", "iterm2": b"\x1bP>|iTerm2 3.5.0\x1b\\"}
                self._answer(name, b"\x1bP>|test 1\x1b\\")

    def _answer(self, by_kind: dict[str, bytes], otherwise: bytes) -> None:
        self.answers += by_kind.get(self.kind, otherwise)

    # Pictures -------------------------------------------------------------------------------------

    def _draw(self, image: Image.Image, rows: int, number: int | None = None) -> None:
        self.sequences += 1
        assert self.row + rows <= self.height - 1, "the bar would be below the screen"
        self.shown = [each for each in self.shown if each.number is None or each.number != number]
        self.shown = [each for each in self.shown if number or each.top != self.row]
        picture = Shown(image, self.row, rows, number)
        self.shown.append(picture)
        self.drawn.append(Shown(image, self.row, rows, number))

    def _see_apc(self, command: bytes) -> None:
        keys, _, data = command.partition(b";")
        said = dict(each.split(b"=") for each in keys.split(b","))
        if said.get(b"a") == b"q":
            self._answer({"kitty": b"\x1b_Gi=%s;OK\x1b\\" % said[b"i"]}, b"")
            return
        assert said[b"q"] == b"2", "its answers would be typed into the shell"
        if said.get(b"a") == b"d":
            self.shown = [each for each in self.shown if each.number != int(said[b"i"])]
            return
        assert len(data) <= 4096
        self._keys = self._keys or said
        self._chunks += data
        if said[b"m"] == b"0":
            assert (self._keys[b"f"], self._keys[b"C"]) == (b"100", b"1")
            image = _png(self._chunks)
            self._draw(image, int(self._keys[b"r"]), int(self._keys[b"i"]))
            self._keys, self._chunks = {}, b""

    def _see_osc(self, command: bytes) -> None:
        if not command.startswith(b"1337;File="):
            return
        head, _, data = command.removeprefix(b"1337;File=").partition(b":")
        said = dict(each.split(b"=") for each in head.split(b";"))
        assert int(said[b"size"]) == len(base64.b64decode(data))
        assert said[b"inline"] == b"1"
        self._draw(_png(data), int(said[b"height"]))
        self.column += 1

    def _see_dcs(self, command: bytes) -> None:
        _, _, data = command.partition(b"q")
        image = decode_sixel(data.decode("ascii"))
        self._draw(image, -(-image.height // CELL[0]))
        self._line_feed()


def _png(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"])
    image.load()
    return image


_SIXEL = re.compile(
    r'"(?P<raster>\d+;\d+;\d+;\d+)|#(?P<define>\d+;2;\d+;\d+;\d+)|#(?P<color>\d+)'
    r"|!(?P<run>\d+)(?P<run_of>[?-~])|(?P<pixels>[?-~])|(?P<move>[$-])"
)


def decode_sixel(data: str) -> Image.Image:
    """The picture of a sixel sequence, by the rules of the VT340's manual."""
    palette: dict[int, tuple[int, ...]] = {}
    image = Image.new("RGB", (1, 1))
    color = x = top = at = 0
    while at < len(data):
        match = _SIXEL.match(data, at)
        assert match, f"no sixels: {data[at : at + 20]!r}"
        at = match.end()
        if match["raster"]:
            width, height = map(int, match["raster"].split(";")[2:])
            image = Image.new("RGB", (width, height))
        elif match["define"]:
            number, _, *percent = map(int, match["define"].split(";"))
            palette[number] = tuple(round(each * 255 / 100) for each in percent)
        elif match["color"]:
            color = int(match["color"])
        elif match["move"]:
            x, top = 0, top + (6 if match["move"] == "-" else 0)
        else:
            bits = ord(match["run_of"] or match["pixels"]) - 63
            for _ in range(int(match["run"] or 1)):
                for bit in range(6):
                    if bits >> bit & 1:
                        image.putpixel((x, top + bit), palette[color])
                x += 1
    return image
