"""The texts that tools write into pictures, whatever their container and encoding.

Tools differ in where they write: chunks of PNG, fields of EXIF, a comment. In EXIF's `UserComment`
they differ in the encoding too, and some name another than they use. So the bytes decide, then the
name, and a byte that fits nothing is replaced: a text that cannot be decoded is no broken picture.
EXIF 2.32, 4.6.5 (UserComment).
"""

import struct
from typing import Any

from PIL import Image
from PIL.ExifTags import IFD, Base

MAX_TEXT_CHARACTERS = 1 << 20
_CHARSET_BYTES = 8  # of the name before a comment
_JIS, _UNICODE = b"JIS", b"UNICODE"
_CHARSETS = (b"ASCII", _JIS, _UNICODE, b"")
# The fields of EXIF in which tools write how a picture was made.
_FIELDS = {
    Base.ImageDescription: "ImageDescription",
    Base.Make: "Make",
    Base.Model: "Model",
    Base.Software: "Software",
    Base.Artist: "Artist",
    Base.XPTitle: "XPTitle",
    Base.XPComment: "XPComment",
    Base.XPKeywords: "XPKeywords",
    Base.XPSubject: "XPSubject",
}
_WIDE = (Base.XPTitle, Base.XPComment, Base.XPKeywords, Base.XPSubject)  # UTF-16-LE, says Windows
# By whose texts a tool is known: a name, and a piece of the text.
_TOOLS = (
    ("dreamforge", "", "Dream Forge"),
    ("Software", "NovelAI", "NovelAI"),
    ("invokeai_metadata", "", "InvokeAI"),
    ("sd-metadata", "", "InvokeAI"),
    ("fooocus_scheme", "", "Fooocus"),
    ("parameters", "Fooocus", "Fooocus"),
    ("workflow", "", "ComfyUI"),
    ("prompt", "class_type", "ComfyUI"),
    ("parameters", "Steps: ", "AUTOMATIC1111's web UI, or a tool that writes as it does"),
)


def texts_of(image: Image.Image) -> dict[str, str]:
    """Every text of a loaded picture by its name; raises ValueError for one that is too long.

    `parameters` is also the name of EXIF's UserComment, where other files than PNG have it.
    """
    texts = dict(getattr(image, "text", {}))
    for name, text in _of_exif(image).items():
        texts.setdefault(name, text)
    comment = image.info.get("comment")
    if isinstance(comment, bytes | str) and comment:
        text = comment if isinstance(comment, str) else _guess(comment)
        # Where a container has no named texts, our object is in its comment.
        texts.setdefault("dreamforge" if text.startswith("{") else "comment", text)
    description = texts.get("ImageDescription", "")
    if image.format == "WEBP" and description.startswith("{") and "dreamforge" not in texts:
        texts["dreamforge"] = texts.pop("ImageDescription")
    for name, text in texts.items():
        if len(text) > MAX_TEXT_CHARACTERS:
            raise ValueError(f"a text of {len(text)} characters ({name[:80]})")
    return {str(name): str(text) for name, text in texts.items() if text}


def tool_of(texts: dict[str, str]) -> str | None:
    """The tool that wrote these texts, where they show it."""
    for name, piece, tool in _TOOLS:
        if name in texts and piece in texts[name]:
            return tool
    return None


def decode_comment(raw: bytes, *, little_endian: bool) -> str:
    """The text of a UserComment; `little_endian` is the order of the EXIF block around it."""
    charset = raw[:_CHARSET_BYTES].rstrip(b"\0 ")
    if charset.upper() not in _CHARSETS or len(raw) < _CHARSET_BYTES:
        return _guess(raw, little_endian=little_endian)
    body = raw[_CHARSET_BYTES:]
    if charset.upper() == _JIS:
        return body.decode("iso2022_jp", "replace").strip("\0 ")
    return _guess(body, little_endian=little_endian, wide=charset.upper() == _UNICODE)


def _of_exif(image: Image.Image) -> dict[str, str]:
    """The texts of the EXIF block; a block that cannot be read is named, and nothing more."""
    try:
        exif = image.getexif()
        fields: dict[int, Any] = dict(exif)
        comment = exif.get_ifd(IFD.Exif).get(Base.UserComment)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error) as error:
        return {"EXIF": f"cannot be read: {error}"}
    little_endian = getattr(exif, "endian", "<") == "<"
    texts = {
        name: _field(fields[number], wide=number in _WIDE)
        for number, name in _FIELDS.items()
        if number in fields
    }
    if isinstance(comment, bytes):
        texts["parameters"] = decode_comment(comment, little_endian=little_endian)
    elif isinstance(comment, str):
        texts["parameters"] = comment
    return texts


def _field(value: object, *, wide: bool) -> str:
    if isinstance(value, tuple) and all(
        isinstance(each, int) and 0 <= each < 256 for each in value
    ):
        value = bytes(value)  # a text in the type of numbers
    if isinstance(value, bytes):
        return _guess(value, little_endian=True, wide=wide)
    return str(value)


def _guess(raw: bytes, *, little_endian: bool = False, wide: bool = False) -> str:
    """Bytes as text. `wide`: their writer says UTF-16, which is not always so."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
    ):
        if raw.startswith(mark):
            return raw.removeprefix(mark).decode(encoding, "replace").strip("\0 ")
    return raw.decode(_encoding(raw, little_endian, wide), "replace").strip("\0 ")


def _encoding(raw: bytes, little_endian: bool, wide: bool) -> str:
    by_order = "utf-16-le" if little_endian else "utf-16-be"
    body = raw.rstrip(b"\0 ")
    # Half of the bytes of Latin letters in UTF-16 are zero: the first of each two, or the second.
    first, second = body[0::2].count(0), body[1::2].count(0)
    if first != second:
        return "utf-16-be" if first > second else "utf-16-le"
    if first:
        return by_order
    if _is_utf_8(body) and (not wide or b" " in body or not body.isascii()):
        return "utf-8"
    return by_order if wide and len(raw) % 2 == 0 else "latin-1"


def _is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
