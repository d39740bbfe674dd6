"""A host that can start no thread: what needs one is away for now, and nothing ends by it."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from api.routes import dead_letters
from api.waiting.reader import QueueReader
from api.webhooks.transport import NotDelivered, Transport
from shared.db.engine import Database
from shared.db.waiting import Line
from shared.errors import InfraUnavailable

# A name: an address needs no thread.
REDIS, POSTGRES = "redis://localhost:1/0", "postgresql://nobody@localhost:1/none"


def without_threads(work: Callable[[], Awaitable[object]]) -> object:
    """What `work` returns on a host that has no thread left."""

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> object:
        with pytest.MonkeyPatch.context() as patch:  # asyncio's own end needs a thread
            patch.setattr(threading.Thread, "start", start)
            return await work()

    return anyio.run(main)


async def ask_database() -> None:
    database = Database(POSTGRES, application="test")
    try:
        await database.ping()
    finally:
        await database.close()


async def play_line_forward() -> None:
    async def line() -> Line:
        return Line(waiting=[], cut=set(), running=[], live=[], run_times={})

    async def steps(_jobs: object) -> dict[Any, Any]:
        return {}

    await QueueReader(line, steps).next_end_s("ada")


@pytest.mark.parametrize("work", [ask_database, play_line_forward])
def test_a_part_counts_as_away(work: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(InfraUnavailable, match="no thread left"):
        without_threads(work)


def test_a_receiver_whose_name_cannot_be_resolved_is_tried_again() -> None:
    async def resolve() -> None:
        await Transport([])._allowed("receiver.example", 80)

    with pytest.raises(NotDelivered, match=r"cannot be resolved.*no thread left"):
        without_threads(resolve)


def test_messages_that_cannot_be_read_hide_no_other_dead_letter() -> None:
    secret = SimpleNamespace(get_secret_value=lambda: REDIS)
    context: Any = SimpleNamespace(settings=SimpleNamespace(redis_url=secret))

    async def read() -> object:
        return await dead_letters._messages(context)

    assert without_threads(read) is None
