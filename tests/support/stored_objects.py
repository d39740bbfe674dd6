"""Everything that an object store holds."""

from __future__ import annotations

from shared.object_store import ObjectStore

PAGE = 1000  # S3 lists so many at once


async def stored_keys(store: ObjectStore, prefix: str = "") -> list[str]:
    """The keys that begin with `prefix`, in order."""
    keys: list[str] = []
    while page := await store.page(prefix, after=keys[-1] if keys else "", limit=PAGE):
        keys += [stored.key for stored in page]
    return keys
