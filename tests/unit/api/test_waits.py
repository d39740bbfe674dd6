"""Calls that wait, while PostgreSQL is there but does not answer."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from api.metrics import Metrics
from api.streaming import waits as module
from api.streaming.waits import READS_AT_ONCE, Waits
from shared.db.jobs import Job
from shared.errors import InfraUnavailable

SHORT_S = 0.02
HUB: Any = None
REQUEST: Any = None


@pytest.mark.parametrize("timeout_s", [SHORT_S, None])
def test_calls_whose_turn_does_not_come_are_answered(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    """The last one would else wait for all those before it, each until its statement ends."""
    monkeypatch.setattr(module, "READ_S", SHORT_S)
    waits, begun, refused = Waits(HUB, Metrics()), 0, 0

    async def never() -> Job:
        nonlocal begun
        begun += 1
        await anyio.sleep_forever()
        raise AssertionError

    async def call() -> None:
        nonlocal refused
        with pytest.raises(InfraUnavailable, match="did not answer"):
            await waits.until_end(REQUEST, never, timeout_s=timeout_s)
        refused += 1

    async def main() -> None:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(call)

    anyio.run(main)
    assert refused == 20
    assert begun >= READS_AT_ONCE
