"""The texts that tools write into pictures, whatever their container and encoding.

Tools differ in where they write: chunks of PNG, fields of EXIF, a comment. In EXIF's `UserComment`
they differ in the encoding too, and some name another than they use (`encodings`). A text that
cannot be decoded is no broken picture. EXIF 2.32, 4.6.5 (UserComment).
"""

import json
import struct
from collections.abc import Iterator
from typing import Any

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import iTXt

from cli.pictures.encodings import decode, decode_as, decode_japanese, restored

MAX_TEXT_CHARACTERS = 1 << 20
_CHARSET_BYTES = 8  # of the name before a comment
_JIS, _UNICODE = b"JIS", b"UNICODE"
_CHARSETS = (b"ASCII", _JIS, _UNICODE, b"")
# No names of the standard; some tools write them, with zeros behind.
_NAMED = {
    **dict.fromkeys((b"UTF-8", b"UTF8"), "utf-8"),
    **dict.fromkeys((b"UTF-16", b"UTF16"), "utf-16-be"),
    **dict.fromkeys((b"UTF-16LE", b"UTF16LE"), "utf-16-le"),
    **dict.fromkeys((b"LATIN1", b"LATIN-1"), "latin-1"),
}
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
_COMFY_UI = ("workflow", "prompt")
# By whose texts a tool is known: a name, and a piece of the text.
_TOOLS = (
    ("dreamforge", '"schema_version"', "Dream Forge"),
    ("Software", "NovelAI", "NovelAI"),
    ("invokeai_metadata", "", "InvokeAI"),
    ("sd-metadata", "", "InvokeAI"),
    ("fooocus_scheme", "", "Fooocus"),
    ("parameters", "Fooocus", "Fooocus"),
    ("workflow", "", "ComfyUI"),
    ("prompt", "class_type", "ComfyUI"),
    # Its WebP has them in fields that are meant for a camera.
    *((field, f"{text}:", "ComfyUI") for field in ("Make", "Model") for text in _COMFY_UI),
    ("parameters", "sui_image_params", "SwarmUI"),
    ("use_stable_diffusion_model", "", "Easy Diffusion"),
    ("XML:com.adobe.xmp", "Draw Things", "Draw Things"),
    ("XMP", "Draw Things", "Draw Things"),
    ("Description", "Job ID: ", "Midjourney"),
    ("ImageDescription", "Job ID: ", "Midjourney"),
    ("parameters", "Steps: ", "AUTOMATIC1111's web UI, or a tool that writes as it does"),
)


def texts_of(image: Image.Image) -> dict[str, str]:
    """Every text of a loaded picture by its name; raises ValueError for one that is too long.

    `parameters` is also the name of EXIF's UserComment, where other files than PNG have it.
    """
    texts = _of_chunks(image)
    for name, text in (*_of_exif(image).items(), *_beside_exif(image)):
        texts.setdefault(name, text)
    # Where a container has no named texts, our object is in its comment, or in the description.
    for name in ("comment", "ImageDescription"):
        if "dreamforge" not in texts and _is_ours(texts.get(name, "")):
            texts["dreamforge"] = texts.pop(name)
    for name, text in texts.items():
        if len(text) > MAX_TEXT_CHARACTERS:
            raise ValueError(f"a text of {len(text)} characters ({name[:80]})")
    return {str(name): str(text) for name, text in texts.items() if text}


def _is_ours(text: str) -> bool:
    """Whether it is an object of ours, of any version; other tools write JSON too."""
    if not text.startswith("{"):
        return False
    try:
        return "schema_version" in json.loads(text)
    except (ValueError, RecursionError):
        return False


def tool_of(texts: dict[str, str]) -> str | None:
    """The tool that wrote these texts, where they show it."""
    for name, piece, tool in _TOOLS:
        if name in texts and piece in texts[name]:
            return tool
    return None


def decode_comment(raw: bytes, *, little_endian: bool) -> str:
    """The text of a UserComment; `little_endian` is the order of the EXIF block around it."""
    charset, body = raw[:_CHARSET_BYTES].rstrip(b"\0 ").upper(), raw[_CHARSET_BYTES:]
    if len(raw) < _CHARSET_BYTES:
        return decode(raw, little_endian=little_endian, wide=False)
    if charset == _JIS:
        return decode_japanese(body)
    if charset in _NAMED and raw[_CHARSET_BYTES - 1] == 0:
        return decode_as(body, _NAMED[charset])
    if charset not in _CHARSETS:
        return decode(raw, little_endian=little_endian, wide=False)
    return decode(body, little_endian=little_endian, wide=charset == _UNICODE)


def _of_chunks(image: Image.Image) -> dict[str, str]:
    """The texts of a PNG. Many tools write UTF-8 where Latin-1 is the rule; we do not."""
    texts: dict[str, str] = dict(getattr(image, "text", {}))
    if _is_ours(texts.get("dreamforge", "")):
        return texts
    return {
        restored(name): text if isinstance(text, iTXt) else restored(text)
        for name, text in texts.items()
    }


def _beside_exif(image: Image.Image) -> Iterator[tuple[str, str]]:
    """Comments, XMP, and the signed statement of where a picture is from (C2PA)."""
    comment, xmp = image.info.get("comment"), image.info.get("xmp")
    if isinstance(comment, bytes):
        comment = decode(comment, little_endian=False, wide=False)
    if comment:
        yield "comment", str(comment)
    if isinstance(xmp, bytes) and "XML:com.adobe.xmp" not in image.info:
        yield "XMP", decode(xmp, little_endian=False, wide=False).strip()
    chunks = [data for name, data, *_ in getattr(image, "private_chunks", ()) if name == b"caBX"]
    chunks += [data for name, data in getattr(image, "applist", ()) if name == "APP11"]
    if chunks:
        size_bytes = sum(map(len, chunks))
        yield "C2PA", f"content credentials of {size_bytes} bytes, which are not read here"


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
        return decode(value, little_endian=True, wide=wide)
    return restored(str(value))
