"""Whether the store takes pictures: what a worker goes by before it claims."""

from __future__ import annotations

import hashlib

import anyio
import pytest
from tests.support.memory_objects import MemoryObjects

from shared.errors import InfraUnavailable
from supervisor.execution.picture_store import RETRY_MOST_S, PictureStore


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def put(store: PictureStore, data: bytes = b"a picture") -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    await store.put("a.png", data, content_type="image/png", sha256=sha256)


async def fail(store: PictureStore) -> None:
    with pytest.raises(InfraUnavailable):
        await put(store)


def test_one_failure_is_no_refusal_and_one_picture_ends_the_count() -> None:
    async def test() -> None:
        objects = MemoryObjects()
        store = PictureStore(objects, refuses_after_s=0.05)
        with objects.faults.away("put"):
            await fail(store)
            assert not store.refuses
        await anyio.sleep(0.06)
        await put(store)
        with objects.faults.away("put"):
            await fail(store)
            assert not store.refuses

    anyio.run(test)


def test_a_store_that_refuses_is_asked_until_it_takes_something() -> None:
    async def test() -> None:
        objects = MemoryObjects()
        store = PictureStore(objects, refuses_after_s=0.0)
        await store.look_again()
        assert objects.faults.calls == []  # nothing is asked of a store that works
        with objects.faults.away("put"):
            await fail(store)
            assert store.refuses
            with pytest.raises(InfraUnavailable):
                await store.look_again()
            assert store.refuses
        await store.look_again()
        assert not store.refuses
        assert objects.objects == {}

    anyio.run(test)


def test_failures_of_pictures_that_nobody_offers_again_are_no_outage() -> None:
    """Their steps were cancelled: between them the store was asked for nothing."""

    async def test() -> None:
        objects, clock = MemoryObjects(), Clock()
        store = PictureStore(objects, refuses_after_s=30.0, clock=clock)
        with objects.faults.away("put"):
            for _ in range(3):
                await fail(store)
                clock.now += 3600.0
                await fail(store)
                assert not store.refuses
                clock.now += 29.0

    anyio.run(test)


def test_a_picture_that_is_offered_all_the_time_finds_an_outage() -> None:
    async def test() -> None:
        objects, clock = MemoryObjects(), Clock()
        store = PictureStore(objects, refuses_after_s=30.0, clock=clock)
        with objects.faults.away("put"):
            await fail(store)
            for _ in range(2):
                clock.now += RETRY_MOST_S
                await fail(store)
                assert not store.refuses
            clock.now += RETRY_MOST_S
            await fail(store)
            assert store.refuses

    anyio.run(test)
