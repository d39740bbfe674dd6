"""Two consoles: results on stdout, everything else on stderr, so that a pipe gets results only.

They are the one way to the terminal, with `output`: whatever is printed, drawn in a bar or put in a
table passes `render`, which lets no control of a stranger through.
"""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.control import Control
from rich.segment import ControlType, Segment

from shared.printable import escape_controls


class SafeConsole(Console):
    """rich's console for text of strangers: no markup, no emoji codes, no control characters."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(
            stderr=stderr, highlight=False, emoji=False, markup=False, soft_wrap=stderr
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of rich, which are text, and controls of its own."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(escape_controls(segment.text, keep="\n"), segment.style)


class TerminalSequence(Control):
    """An escape sequence of ours. What it carries of others must be numbers or base64."""

    __slots__ = ()

    def __init__(self, sequence: str) -> None:
        # The code marks it as one, so that it reaches terminals only; rich itself reads it on
        # Windows alone.
        self.segment = Segment(sequence, None, [(ControlType.CARRIAGE_RETURN,)])


out = SafeConsole()
err = SafeConsole(stderr=True)
