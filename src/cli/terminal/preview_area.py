"""A place for previews above the bar, in terminals that show pictures.

Theory of operation
-------------------
rich keeps the bar in the lowest lines: before it prints anything it goes to the bar's first line
and erases it, and afterwards it draws the bar again. A preview is printed in between. It goes up
by its height, draws, and comes back, so nothing is below it but the bar, whatever that does.

The first preview makes room by line breaks, the next ones take the same place. Before text is
printed above the bar, the picture is taken away with its lines; the next preview makes new room.
At the end it goes as well: what stays on the screen is text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from io import BytesIO
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import ConsoleRenderable, RenderHook
from rich.control import Control

from cli.terminal.console import SafeConsole, TerminalSequence
from cli.terminal.graphics import Graphics, rows_for
from cli.terminal.output import print_note
from shared.protocol.messages import MAX_PREVIEW_SIDE

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_ROWS = 16
_SAVE, _RESTORE = "\x1b7", "\x1b8"


class PreviewArea(RenderHook):
    """Enter it before the bar starts, and `clear` it before the bar stops."""

    def __init__(self, console: SafeConsole, graphics: Graphics) -> None:
        self._console = console
        self._graphics = graphics
        self._rows = 0  # that the picture above the bar takes; 0: there is none
        self._broken = False

    def __enter__(self) -> Self:
        self._console.push_render_hook(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._console.pop_render_hook()

    def show(self, preview: Mapping[str, Any]) -> None:
        """Show the picture of a `preview` message, in place of the one before."""
        if self._broken:
            return
        try:
            picture = _decode(str(preview.get("image", "")))
        except (OSError, ValueError) as error:
            self._broken = True
            print_note(f"previews are not shown: {error}")
            return
        size = self._console.size
        rows = rows_for(picture, rows=min(MOST_ROWS, size.height // 2), columns=size.width)
        sequence = ""
        if rows != self._rows:
            sequence = self._removal() + "\n" * rows
            self._rows = rows
        sequence += f"{_SAVE}\x1b[{rows}A{self._graphics.draw(picture, rows)}{_RESTORE}"
        self._console.print(TerminalSequence(sequence))

    def clear(self) -> None:
        """Take the picture away, with its lines."""
        if self._rows:
            self._console.print(TerminalSequence(self._removal()))

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich with whatever is printed; a bar that is drawn again is no text."""
        if not self._rows or all(isinstance(each, Control) for each in renderables):
            return renderables
        return [TerminalSequence(self._removal()), *renderables]

    def _removal(self) -> str:
        """From the bar's first line; the lines below move up by the height of the picture."""
        rows, self._rows = self._rows, 0
        if not rows:
            return ""
        erased = "\x1b[A\x1b[2K" * rows
        return f"{self._graphics.remove()}{erased}\x1b[{rows}M"


def _decode(address: str) -> Image:
    """The picture of a `data:` address. Raises `OSError` or `ValueError` for what is none."""
    from PIL import Image

    kind, _, data = address.partition(",")
    if kind != "data:image/jpeg;base64":
        raise ValueError("the API sends another kind of picture")
    try:
        jpeg = base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the API sends no picture: {error}") from error
    with Image.open(BytesIO(jpeg), formats=["JPEG"]) as picture:
        if max(picture.size) > MAX_PREVIEW_SIDE:  # known before anything is decoded
            raise ValueError(f"the API sends a picture of {picture.width}x{picture.height}")
        return picture.convert("RGB")
