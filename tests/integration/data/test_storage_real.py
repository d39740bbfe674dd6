"""The object store's client against a real store."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, tzinfo
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from tests.support.api_harness import settings_of
from tests.support.infrastructure import Infrastructure
from tests.support.stored_objects import stored_keys

from shared.errors import InfraUnavailable
from shared.object_store import SHA256_META, ClockDiffers, ObjectStore, StoreRefused, open_store


def run(
    environment: dict[str, str], work: Callable[[ObjectStore], Awaitable[None]], **changes: Any
) -> None:
    async def main() -> None:
        changes.setdefault("s3_bucket", f"test{uuid4().hex}")
        store = open_store(settings_of(environment, **changes))
        try:
            with anyio.fail_after(60):
                await work(store)
        finally:
            store.close()

    anyio.run(main)


async def put(store: ObjectStore, key: str, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    await store.put(key, data, content_type="image/png", sha256=sha256)


@pytest.mark.parametrize("size_bytes", [0, 1, 12_000_000])
def test_what_is_put_is_there_with_its_hash_and_type(
    stack_environment: dict[str, str], size_bytes: int
) -> None:
    data = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)

    async def work(store: ObjectStore) -> None:
        await store.ensure_bucket()
        await put(store, "a/b c.png", data)
        async with httpx.AsyncClient() as client:
            headers = (await client.get(store.presign("a/b c.png", 60))).headers
        assert (headers["Content-Length"], headers["Content-Type"]) == (
            str(size_bytes),
            "image/png",
        )
        assert headers[SHA256_META] == hashlib.sha256(data).hexdigest()
        # One part, whatever the size: that is what makes the ETag a proof.
        assert headers["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
        assert await store.get("a/b c.png") == data
        assert await store.get("a/b c.png", at_most_bytes=3) == data[:3]
        assert await store.get("a/b c.png", at_most_bytes=1 << 30) == data

    run(stack_environment, work)


def test_an_object_can_be_read_by_its_url_and_by_nothing_else(
    stack_environment: dict[str, str],
) -> None:
    async def work(store: ObjectStore) -> None:
        await store.ensure_bucket()
        await put(store, "k.png", b"data")
        url = store.presign("k.png", 60)
        async with httpx.AsyncClient() as client:
            assert (await client.get(url)).content == b"data"
            assert (await client.get(url.partition("?")[0])).status_code == 403
            assert (await client.get(url.replace("k.png", "l.png"))).status_code == 403
            assert (await client.put(url, content=b"other")).status_code == 403

    run(stack_environment, work)


def test_listing_deleting_and_asking_for_what_is_not_there(
    stack_environment: dict[str, str],
) -> None:
    async def work(store: ObjectStore) -> None:
        await store.ensure_bucket()
        await store.ensure_bucket()
        for key in ("a/1", "a/2/3", "b/1"):
            await put(store, key, b"x")
        assert await stored_keys(store, "a/") == ["a/1", "a/2/3"]
        await store.delete("a/1")
        await store.delete("a/1")
        assert await store.get("a/1") is None
        assert await stored_keys(store) == ["a/2/3", "b/1"]

    run(stack_environment, work)


def test_a_ping_without_the_bucket_fails(stack_environment: dict[str, str]) -> None:
    async def work(store: ObjectStore) -> None:
        with pytest.raises(InfraUnavailable, match="bucket"):
            await store.ping()
        await store.ensure_bucket()
        await store.ping()

    run(stack_environment, work)


def test_wrong_credentials_are_told_apart_from_an_absent_store(
    stack_environment: dict[str, str],
) -> None:
    async def refused(store: ObjectStore) -> None:
        calls: list[Callable[[], Awaitable[Any]]] = [
            store.ping,
            store.ensure_bucket,
            lambda: store.get("k"),
        ]
        for call in calls:
            with pytest.raises(StoreRefused):
                await call()

    run(stack_environment, refused, s3_secret_key="wrong")


@pytest.mark.parametrize(("hours", "which"), [(1, "ahead of"), (-1, "behind")])
def test_a_clock_that_is_wrong_is_said(
    stack_environment: dict[str, str], hours: int, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store says AccessDenied, as it does to a wrong key."""

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Wrong:
            return super().now(tz) + timedelta(hours=hours)

    monkeypatch.setattr("minio.time.datetime", Wrong)
    monkeypatch.setattr("shared.object_store.datetime", Wrong)

    async def work(store: ObjectStore) -> None:
        for call in (store.ping, store.ensure_bucket, store.probe_write):
            with pytest.raises(ClockDiffers, match="RequestTimeTooSkewed") as found:
                await call()
            seconds = re.search(rf"is (\d+) s {which} the store's; let NTP", found.value.reason)
            assert seconds is not None
            assert 3500 < int(seconds[1]) < 3700

    run(stack_environment, work)


def test_a_write_for_readiness_leaves_nothing(stack_environment: dict[str, str]) -> None:
    async def work(store: ObjectStore) -> None:
        await store.ensure_bucket()
        await store.probe_write()
        assert await stored_keys(store) == []

    run(stack_environment, work)


def test_an_absent_store_is_unavailable_and_the_client_recovers(
    stack: Infrastructure, stack_environment: dict[str, str]
) -> None:
    async def work(store: ObjectStore) -> None:
        await store.ensure_bucket()
        await put(store, "k", b"x")
        stack.stop("store")
        try:
            calls: list[Callable[[], Awaitable[Any]]] = [
                store.ping,
                store.ensure_bucket,
                store.probe_write,
                lambda: put(store, "k", b"x"),
                lambda: store.get("k"),
                lambda: store.page("", after="", limit=1),
                lambda: store.delete("k"),
            ]
            for call in calls:
                with pytest.raises(InfraUnavailable) as caught:
                    await call()
                assert not isinstance(caught.value, StoreRefused)
                assert caught.value.reason == "[Errno 111] Connection refused"
        finally:
            stack.restart("store")
        assert await store.get("k") == b"x"

    run(stack_environment, work)
