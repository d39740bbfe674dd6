"""Loops over the broker's channels share a task group with all else that a process does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import anyio
import pytest

from shared.dispatch import event_channel, preview_channel
from shared.dispatch.event_channel import EventPublisher, EventSubscription
from shared.dispatch.preview_channel import PreviewPublisher, PreviewSubscription
from shared.protocol.messages import Preview

NOWHERE = "redis://127.0.0.1:1/0"
PREVIEW = Preview(item_index=0, step=1, steps=2, width=8, height=8)


class Broken:
    """A client with a bug: each call of it fails, in a way that no caller foresaw."""

    def __init__(self) -> None:
        self.calls = 0

    async def publish(self, channel: str, data: str) -> None:
        self.calls += 1
        raise RuntimeError("a bug")

    def pubsub(self, **_: Any) -> Any:
        self.calls += 1
        raise RuntimeError("a bug")


def event_publisher() -> tuple[Any, Callable[[], None]]:
    loop = EventPublisher(NOWHERE)
    return loop, lambda: loop.publish([uuid4()])


def event_subscription() -> tuple[Any, Callable[[], None]]:
    return EventSubscription(NOWHERE, lambda _: None), lambda: None


def preview_publisher() -> tuple[Any, Callable[[], None]]:
    loop = PreviewPublisher(NOWHERE)
    return loop, lambda: loop.publish(uuid4(), PREVIEW, b"jpeg")


def preview_subscription() -> tuple[Any, Callable[[], None]]:
    loop = PreviewSubscription(NOWHERE, lambda _: None)
    return loop, lambda: loop.watch(uuid4())


@pytest.mark.parametrize(
    "make", [event_publisher, event_subscription, preview_publisher, preview_subscription]
)
def test_a_loop_goes_on_after_a_failure_that_nobody_foresaw(
    make: Callable[[], tuple[Any, Callable[[], None]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_channel, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(preview_channel, "AWAY_S", 0.001)

    async def main() -> None:
        loop, act = make()
        await loop.close()
        loop._redis = broken = Broken()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(loop.run)
                while broken.calls < 3:
                    act()
                    await anyio.sleep(0.001)
                tasks.cancel_scope.cancel()

    anyio.run(main)


@pytest.mark.parametrize("jpeg", ["\u00e9", "=", "%%%%"])
def test_a_preview_that_is_no_base64_is_left_out(jpeg: str) -> None:
    shown: list[object] = []
    subscription = PreviewSubscription(NOWHERE, shown.append)
    message = preview_channel.ShownPreview(
        job_id=uuid4(), **PREVIEW.model_dump(exclude={"type"}), jpeg=jpeg
    )
    subscription._hear(message.model_dump_json().encode())
    assert shown == []
