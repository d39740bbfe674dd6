"""Text of strangers on a terminal: shown, never obeyed.

A terminal obeys escape sequences that stand in a prompt, a file's metadata, a model's name or an
error: they set its title, clear it, fill its clipboard. Eight-bit controls (C1) begin the same
sequences. Marks of direction (bidi) let a text read as another than it is. All of them, and what
has no picture at all, are shown as their escapes.
"""

import unicodedata

# Marks that join letters: emoji of several signs, Persian and Indian scripts need them.
_JOINERS = "\u200c\u200d"


def escape_controls(text: str, *, keep: str = "") -> str:
    """The text with controls as escapes, but those in `keep`: the line break, as a rule."""
    if text.isprintable():
        return text
    return "".join(each if each in keep or _is_harmless(each) else _escaped(each) for each in text)


def _is_harmless(letter: str) -> bool:
    # A space of another width (Japanese, French) is not printable to Python, and harmless.
    return letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs"


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
