"""From when a lease counts that was renewed."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import anyio
import pytest
from tests.support.harness import timings_for_tests

from shared.step_store import Claim, Stale
from supervisor.execution import fence as fence_module
from supervisor.execution import lease
from supervisor.execution.context import Execution
from supervisor.execution.fence import Fence
from supervisor.execution.lease import renew_lease
from supervisor.lifecycle.step import EventKind


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_renewal_counts_from_when_it_was_sent_though_its_answer_comes_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    for module in (fence_module, lease):
        monkeypatch.setattr(module, "boottime", clock)
    fence = Fence(sent=95.0, fence_s=40.0, deadman_s=50.0)
    deadlines: list[float] = []
    posted: list[EventKind] = []

    class Store:
        async def renew(self, claim: Claim, lease_s: float) -> None:
            if deadlines:
                raise Stale
            clock.now += 7.0  # on its way there and back

    execution = cast(
        Execution,
        SimpleNamespace(
            claim=SimpleNamespace(step_id=uuid4()),
            worker=SimpleNamespace(store=Store(), timings=timings_for_tests(lease_renew_s=0.01)),
            fence=fence,
            post=posted.append,
        ),
    )
    renew = partial(renew_lease, on_renewed=lambda: deadlines.append(fence.dies_at))
    anyio.run(renew, execution)
    assert deadlines == [150.0]
    assert fence.left_s == 33.0
    assert posted == [EventKind.LEASE_GONE]
