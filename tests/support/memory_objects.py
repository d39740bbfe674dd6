"""In-memory twin of `shared.artifact_store.ArtifactStore`."""

from __future__ import annotations

import hashlib

from tests.support.faults import Faults


class MemoryObjects:
    """Objects by key. Faults: `put`, `get`, `delete`."""

    def __init__(self) -> None:
        self.faults = Faults("object store")
        self.objects: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes, *, content_type: str, sha256: str) -> None:
        await self.faults.before("put")
        assert content_type in {"image/png", "image/jpeg", "image/webp"}
        assert hashlib.sha256(data).hexdigest() == sha256
        self.objects[key] = data
        await self.faults.after("put")

    async def get(self, key: str, *, at_most_bytes: int) -> bytes | None:
        await self.faults.before("get")
        found = self.objects.get(key)
        return None if found is None else found[:at_most_bytes]

    async def probe_write(self) -> None:
        await self.faults.before("put")

    async def delete(self, key: str) -> None:
        await self.faults.before("delete")
        self.objects.pop(key, None)
        await self.faults.after("delete")
