"""What becomes of notifications when the broker does not take them."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from uuid import uuid4

import anyio
import pytest

from api.dispatch import MAX_WAITING, Notifier
from api.metrics import Metrics
from shared.states import DEFAULT_QUEUE

DEADLINE_S = 30.0


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """A broker that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        yield listener


def test_what_a_hanging_broker_holds_up_is_counted_and_then_dropped(
    deaf: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    notifier = Notifier(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", metrics)
    notifier.start()
    with caplog.at_level(logging.WARNING, "api.dispatch"):
        notifier.notify(uuid4(), DEFAULT_QUEUE)
        link, _ = deaf.accept()  # the sending of the first has begun
        for _ in range(MAX_WAITING + 5):
            notifier.notify(uuid4(), DEFAULT_QUEUE)
        await_count(metrics, "failed", MAX_WAITING + 1)
        link.close()
    assert count(metrics, "dropped") == 5
    assert count(metrics, "sent") == 0
    (record,) = [each for each in caplog.records if each.name == "api.dispatch"]
    assert len(record.__dict__["step_ids"]) == MAX_WAITING + 1
    anyio.run(notifier.finish)
    anyio.run(notifier.close)


def test_it_ends_although_the_broker_hangs(deaf: socket.socket) -> None:
    notifier = Notifier(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", Metrics())
    notifier.start()
    notifier.notify(uuid4(), DEFAULT_QUEUE)

    async def end() -> None:
        with anyio.fail_after(DEADLINE_S):
            await notifier.finish()
            await notifier.close()

    anyio.run(end)


def await_count(metrics: Metrics, outcome: str, wanted: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while count(metrics, outcome) < wanted:
        assert time.monotonic() < deadline, count(metrics, outcome)
        time.sleep(0.01)


def count(metrics: Metrics, outcome: str) -> int:
    value = metrics.registry.get_sample_value(
        "dreamforge_doorbell_rings_total", {"outcome": outcome}
    )
    return int(value or 0)
