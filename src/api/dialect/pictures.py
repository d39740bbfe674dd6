"""Stored pictures as base64, a range of bytes after the other.

Ten pictures of 4096 x 4096 may be half a gigabyte. A call never holds more than one range, and its
base64, which the client has to take before the next one is read. So a thousand calls are bounded as
well, whatever the pictures' sizes, and a client that does not read holds up nobody else.
"""

import base64
import hashlib
from collections.abc import AsyncGenerator
from typing import Protocol

from shared.db.artifacts import Artifact
from shared.errors import InfraUnavailable, NotFound

# A multiple of 3: then the base64 of all ranges, one after the other, is that of the whole.
RANGE_BYTES = 3 << 18


class Store(Protocol):
    """The object store, as far as it is read here."""

    async def get_range(self, key: str, *, offset: int, size: int) -> bytes | None: ...


async def base64_ranges(store: Store, picture: Artifact) -> AsyncGenerator[bytes]:
    """The base64 of a picture, in parts of `RANGE_BYTES` / 3 * 4 bytes at most.

    Raises `NotFound` where the picture was deleted, `InfraUnavailable` where the store is away or
    has other bytes than were stored.
    """
    digest = hashlib.sha256()
    for offset in range(0, picture.size_bytes, RANGE_BYTES):
        size = min(RANGE_BYTES, picture.size_bytes - offset)
        data = await store.get_range(picture.s3_key, offset=offset, size=size)
        if data is None:
            raise deleted()
        digest.update(data)
        if offset + size == picture.size_bytes and digest.hexdigest() != picture.sha256:
            raise InfraUnavailable("the object store has other bytes than were stored")
        yield base64.b64encode(data)


def deleted() -> NotFound:
    return NotFound("the pictures of this job were deleted: their time was over")
