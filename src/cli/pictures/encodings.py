"""Bytes of strangers as text, where their writer names no encoding, or another than it used.

The bytes decide, then the name. UTF-8 with a letter that is not ASCII is hardly ever anything else.
Of the other readings the least strange one is taken: a text has letters of one or two scripts, and
the same bytes in the wrong order are letters of many, or none at all. Counting zeros does not do:
the most frequent Chinese letter is U+4E00. What fits nothing is replaced, never refused.
"""

import unicodedata
from collections.abc import Iterable

_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_JUDGED_BYTES = 1 << 13  # the begin of a text shows of which script it is
# Not letters of any text: unassigned, for private use, half a pair.
_NEVER = frozenset({"Cn", "Co", "Cs"})
_UNLIKELY = 4  # as strange as so many scripts
_MOSTLY = 0.75
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789,")


def decode(raw: bytes, *, little_endian: bool, wide: bool) -> str:
    """`raw` as text. `wide`: its writer says UTF-16, in the order `little_endian`, most likely."""
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _stripped(raw.removeprefix(mark).decode(encoding, "replace"))
    body = raw.rstrip(b"\0") if wide or b"\0" in raw.rstrip(b"\0 ") else raw.rstrip(b"\0 ")
    if _is_utf_8(body) and (not body.isascii() or (b"\0" not in body and _is_plain(body, wide))):
        return _stripped(body.decode())
    return _stripped(_least_strange(body, _readings(body, little_endian, wide)))


def decode_japanese(raw: bytes) -> str:
    """`raw` as text, whose writer says JIS: most mean another of its encodings."""
    if b"\x1b" in raw:
        return _stripped(raw.decode("iso2022_jp", "replace"))
    if _is_utf_8(raw):
        return _stripped(raw.decode())
    return _stripped(_least_strange(raw, ("euc_jp", "cp932")))


def decode_as(raw: bytes, encoding: str) -> str:
    """`raw` in an encoding that its writer names; what does not fit is replaced."""
    return _stripped(raw.decode(encoding, "replace"))


def restored(text: str) -> str:
    """A text that was read as Latin-1, as a container's standard says, and is UTF-8."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _readings(body: bytes, little_endian: bool, wide: bool) -> list[str]:
    """The encodings that come into question, the most likely one first."""
    in_order = ["utf-16-le", "utf-16-be"] if little_endian else ["utf-16-be", "utf-16-le"]
    if wide:
        return in_order
    narrow = "cp1252" if _is_cp1252(body) else "latin-1"
    return [*in_order, narrow]


def _least_strange(body: bytes, encodings: Iterable[str]) -> str:
    """Of equally strange readings the one whose letters lie in fewer rows, then the first."""
    begin = body[:_JUDGED_BYTES]

    def rank(encoding: str) -> tuple[int, int]:
        text = _read(begin, encoding)
        return _strangeness(text), len({ord(each) >> 8 for each in text})

    return _read(body, min(encodings, key=rank))


def _read(body: bytes, encoding: str) -> str:
    # Tools strip the zeros behind a text, and with them half of its last letter.
    padding = b"\0" if encoding.startswith("utf-16") and len(body) % 2 else b""
    return (body + padding).decode(encoding, "replace").rstrip("\0")


def _strangeness(text: str) -> int:
    scripts = {script for each in text if (script := _script(each))}
    wrong = sum(map(_is_no_letter, text))
    return len(scripts) + _UNLIKELY * wrong


def _is_no_letter(each: str) -> bool:
    category = unicodedata.category(each)
    return category in _NEVER or each == "\ufffd" or (category == "Cc" and each not in "\t\n\r")


def _script(each: str) -> int:
    """A number for each script, roughly; 0 for signs of all scripts and for emoji."""
    code = ord(each)
    if code < 0x80 and not each.isalnum():
        return 0
    if 0x2008 <= code < 0x2070 or 0xFE00 <= code < 0xFE10 or 0x1F000 <= code < 0x1FB00:
        return 0
    if code < 0x250 or 0x300 <= code < 0x370 or 0x1E00 <= code < 0x1F00:
        return 1  # Latin
    if 0x3000 <= code < 0xA000 or 0xF900 <= code < 0xFB00 or 0xFF00 <= code < 0xFF61:
        return 2  # Chinese and Japanese
    if 0xAC00 <= code < 0xD7B0:
        return 3  # Korean
    return code >> 7  # the wide spaces at U+2000 too: that is a space in the wrong order


def _is_plain(body: bytes, wide: bool) -> bool:
    """Whether ASCII is what it looks like: words, and not pairs of bytes that are letters."""
    return not wide or b" " in body or sum(map(_PLAIN.__contains__, body)) >= _MOSTLY * len(body)


def _is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_cp1252(raw: bytes) -> bool:
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


def _stripped(text: str) -> str:
    return text.strip("\0 ")
