"""Receives one picture and keeps it in the store, with a few megabytes of memory.

A file of up to one part (5 MiB) waits in memory until it is whole, and is one object at once. A
larger one goes to the store part by part while it arrives, and the store puts the parts together
when its hash is known. The row comes last. So whatever is cut off, and whoever is killed, leaves at
worst objects that no row names, and those the pruner finds.
"""

import hashlib
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import anyio
from starlette.requests import ClientDisconnect

from api.uploads.form import FormReader, PartHead, Sink
from api.uploads.picture_head import FIELD, HeadReader, PictureHead, wrong_file
from shared.db import inputs
from shared.db.engine import Database
from shared.db.inputs import Input, NewInput
from shared.errors import InvalidInput, PayloadTooLarge
from shared.object_store import PART_BYTES, ObjectStore
from shared.protocol.messages import CONTENT_TYPES

# How long the objects of a failed upload are deleted at once; after that they are the pruner's.
CLEANUP_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """The picture; `created` is False where this user had the same bytes before."""

    picture: Input
    created: bool


async def receive(
    body: AsyncIterator[bytes],
    content_type: str | None,
    *,
    user: str,
    max_bytes: int,
    database: Database,
    store: ObjectStore,
) -> Received:
    """Keep the picture in the form `body`.

    Raises `InvalidInput`, `PayloadTooLarge`, `InfraUnavailable`.
    """
    upload = PictureUpload(user, max_bytes, database, store)
    file = _OnlyFile(upload)
    form = FormReader(content_type, file.open_part)
    try:
        async for data in body:
            form.feed(data)
            await upload.store_full_parts()
        form.finish()
        if not file.opened:
            raise wrong_file(f"is missing; the form has one field, {FIELD!r}")
        return await upload.finish()
    except ClientDisconnect:
        raise InvalidInput("the connection ended before the picture had arrived") from None
    finally:
        await upload.delete_parts()


class _OnlyFile:
    """A form with one part: the file."""

    def __init__(self, upload: "PictureUpload") -> None:
        self._upload = upload
        self.opened = False

    def open_part(self, part: PartHead) -> Sink:
        if part.name != FIELD:
            raise InvalidInput(f"the form has one field, {FIELD!r}, and it is the picture")
        if self.opened:
            raise wrong_file("is there more than once; send one picture with each request")
        self.opened = True
        return self._upload.take


class PictureUpload:
    """One file on its way from a form into the store. `delete_parts` comes last, whatever was."""

    def __init__(self, user: str, max_bytes: int, database: Database, store: ObjectStore) -> None:
        self._user = user
        self._max_bytes = max_bytes
        self._database = database
        self._store = store
        self._id: UUID = uuid4()
        self._head = HeadReader()
        self._hash = hashlib.sha256()
        self._size = 0
        self._buffer = io.BytesIO()
        self._parts: list[str] = []

    def take(self, data: bytes) -> None:
        """The next bytes of the file. Raises `InvalidInput`, `PayloadTooLarge`."""
        self._size += len(data)
        if self._size > self._max_bytes:
            raise PayloadTooLarge(
                f"{FIELD}: the picture is over {self._max_bytes} bytes",
                field=FIELD,
                maximum=self._max_bytes,
            )
        self._hash.update(data)
        self._head.feed(data)
        self._buffer.write(data)

    async def store_full_parts(self) -> None:
        """Send what is a whole part, so that no more than that is ever in memory."""
        if self._buffer.tell() >= PART_BYTES:
            await self._store_part()

    async def _store_part(self) -> None:
        data, self._buffer = self._buffer.getvalue(), io.BytesIO()
        key = f"dreamforge/{self._user}/uploads/{self._id}/{len(self._parts)}"
        self._parts.append(key)  # before: what was cut off may have been stored
        await self._put(key, data, "application/octet-stream")

    async def finish(self) -> Received:
        """The file is whole: look whether it is there, and keep it otherwise."""
        head, sha256 = self._head.finish(), self._hash.hexdigest()
        before = await self._database.transaction(inputs.touch_same, user=self._user, sha256=sha256)
        if before is not None:
            return Received(picture=before, created=False)
        new = self._new(head, sha256)
        await self._store_whole(new, CONTENT_TYPES[head.format])
        stored = await self._database.transaction(inputs.insert, new)
        if stored.id != new.id:  # another upload of the same bytes was faster
            await self._store.delete(new.s3_key)
        return Received(picture=stored, created=stored.id == new.id)

    def _new(self, head: PictureHead, sha256: str) -> NewInput:
        return NewInput(
            id=self._id,
            user=self._user,
            format=head.format,
            width=head.width,
            height=head.height,
            orientation=head.orientation,
            size_bytes=self._size,
            sha256=sha256,
            s3_key=inputs.object_key(self._user, sha256, self._id),
        )

    async def _store_whole(self, new: NewInput, content_type: str) -> None:
        if not self._parts:
            data, self._buffer = self._buffer.getvalue(), io.BytesIO()
            await self._store.put(new.s3_key, data, content_type=content_type, sha256=new.sha256)
            return
        if self._buffer.tell():
            await self._store_part()
        await self._store.compose(
            new.s3_key, self._parts, content_type=content_type, sha256=new.sha256
        )

    async def _put(self, key: str, data: bytes, content_type: str) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        await self._store.put(key, data, content_type=content_type, sha256=sha256)

    async def delete_parts(self) -> None:
        """Delete the parts: the whole is stored, or nothing will be made of them."""
        if self._parts:
            with anyio.move_on_after(CLEANUP_S, shield=True):
                for key in self._parts:
                    await self._store.delete(key)
