"""A form of OpenAI's clients: its texts as JSON would have them, and its pictures as inputs.

A form knows texts only, and writes what is inside of something as `tags[order]`. Pictures go to the
store while they arrive, as with `POST /v1/inputs`, and are inputs from then on.
"""

import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import ClientDisconnect

from api.context import Context
from api.errors import printable
from api.uploads.form import FormReader, PartHead, Sink
from api.uploads.picture_head import FIELD
from api.uploads.receive import PictureUpload
from shared.db.inputs import Input
from shared.errors import InvalidInput, PayloadTooLarge

# The fields that may be files, by the names under which their clients send them.
FILES = {"image": "image", "image[]": "image", "mask": "mask"}
# Of all texts together: the longest prompts, and much of everything else.
MAX_TEXT_BYTES = 1 << 17
MAX_PARTS = 100
# Fields that stay texts when they look like a number. Within `tags` all do.
_TEXTS = {"prompt", "negative_prompt", "model", "model_id", "user", "safety_identifier", "preset"}
_SCALAR = re.compile(r"true|false|null|-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,20})?", re.ASCII)
_NAME = re.compile(r"(?P<name>[^\[\]]+)(?P<inner>(\[[^\[\]]+\])*)")


@dataclass(kw_only=True, slots=True)
class Form:
    """What a form holds: fields as in JSON, and the pictures of each field in their order."""

    fields: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, list[Input]] = field(default_factory=dict)


async def read_form(
    body: AsyncIterator[bytes], content_type: str | None, context: Context, user: str
) -> Form:
    """Raises `InvalidInput`, `PayloadTooLarge`, `InfraUnavailable`."""
    parts = _Parts(context, user)
    reader = FormReader(content_type, parts.open_part)
    try:
        async for data in body:
            reader.feed(data)
            await parts.store()
        reader.finish()
        await parts.close_file()
    except ClientDisconnect:
        raise InvalidInput("the connection ended before the form had arrived") from None
    finally:
        await parts.delete_parts()
    return Form(fields=_nested(parts.texts), pictures=parts.pictures)


class _Parts:
    """The parts of one form as they arrive. One file at a time is under way."""

    def __init__(self, context: Context, user: str) -> None:
        self._context = context
        self._user = user
        self._uploads: list[tuple[str, PictureUpload]] = []  # the last one is still arriving
        self._all: list[PictureUpload] = []
        self._count = self._text_bytes = 0
        self.texts: dict[str, bytearray] = {}
        self.pictures: dict[str, list[Input]] = {}

    def open_part(self, part: PartHead) -> Sink:
        self._count += 1
        if self._count > MAX_PARTS:
            raise InvalidInput(f"the form has more than {MAX_PARTS} fields")
        if part.filename is not None:
            return self._open_file(part.name)
        name = printable(part.name)
        if name in self.texts:
            raise InvalidInput(f"{name}: is there more than once", field=name)
        self.texts[name] = bytearray()
        return lambda data: self._take_text(name, data)

    def _open_file(self, name: str) -> Sink:
        if name not in FILES:
            shown = printable(name)
            raise InvalidInput(f"{shown}: no file is expected here", field=shown)
        settings = self._context.settings
        upload = PictureUpload(
            self._user, settings.max_input_bytes, self._context.database, self._context.store
        )
        self._uploads.append((FILES[name], upload))
        self._all.append(upload)

        def take(data: bytes) -> None:
            with _named(FILES[name]):
                upload.take(data)

        return take

    def _take_text(self, name: str, data: bytes) -> None:
        self._text_bytes += len(data)
        if self._text_bytes > MAX_TEXT_BYTES:
            raise PayloadTooLarge(
                f"the texts of the form are over {MAX_TEXT_BYTES} bytes", maximum=MAX_TEXT_BYTES
            )
        self.texts[name] += data

    async def store(self) -> None:
        """Bring what has arrived into the store, so that no more than a part stays in memory."""
        while len(self._uploads) > 1:
            await self.close_file()
        if self._uploads:
            await self._uploads[0][1].store_full_parts()

    async def close_file(self) -> None:
        """The oldest file that is under way has arrived."""
        if self._uploads:
            name, upload = self._uploads[0]
            with _named(name):
                received = await upload.finish()
            self.pictures.setdefault(name, []).append(received.picture)
            del self._uploads[0]

    async def delete_parts(self) -> None:
        for upload in self._all:
            await upload.delete_parts()


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let a refusal of a file have the name that it has in this form."""
    try:
        yield
    except (InvalidInput, PayloadTooLarge) as refused:
        refused.message = f"{name}: {refused.message.removeprefix(f'{FIELD}: ')}"
        for finding in (refused.details, *refused.details.get("errors", ())):
            if finding.get("field") == FIELD:
                finding["field"] = name
        raise


def _nested(texts: dict[str, bytearray]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, data in texts.items():
        path = _path(name)
        try:
            value = _value(path, data.decode())
        except UnicodeDecodeError:
            raise InvalidInput(f"{name}: must be text in UTF-8", field=name) from None
        inner = fields
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
            if not isinstance(inner, dict):
                raise InvalidInput(f"{name}: is a value and holds others too", field=name)
        inner[path[-1]] = value
    return fields


def _path(name: str) -> list[str]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidInput(f"{name}: is not known here", field=name)
    return [found["name"], *re.findall(r"[^\[\]]+", found["inner"])]


def _value(path: list[str], text: str) -> Any:
    """The number, true, false or null that the text is in JSON; else the text."""
    is_text = path[0] == "tags" or path[-1] in _TEXTS or _SCALAR.fullmatch(text) is None
    return text if is_text else json.loads(text)
