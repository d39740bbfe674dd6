"""What is done again and again beside the steps, and what it costs them when it cannot be done."""

from __future__ import annotations

import logging
from functools import partial

import anyio
import pytest

from shared.errors import InfraUnavailable
from supervisor.supervisor import repeat_every


class Enough(Exception):
    pass


@pytest.mark.parametrize(
    ("trouble", "level"),
    [(OSError("no more descriptors"), logging.ERROR), (InfraUnavailable("away"), logging.WARNING)],
)
def test_what_cannot_be_done_now_is_said_and_tried_again(
    caplog: pytest.LogCaptureFixture, trouble: Exception, level: int
) -> None:
    calls = 0

    async def keep() -> None:
        nonlocal calls
        calls += 1
        raise trouble if calls < 3 else Enough

    with pytest.raises(Enough):
        anyio.run(repeat_every, 0.0, keep)
    assert [record.levelno for record in caplog.records] == [level, level]
    assert all(record.message.startswith("keep: ") for record in caplog.records)


def test_work_without_a_name_is_tried_again_too(caplog: pytest.LogCaptureFixture) -> None:
    troubles: list[Exception] = [Enough(), OSError("no more descriptors")]

    async def keep(left: list[Exception]) -> None:
        raise left.pop()

    with pytest.raises(Enough):
        anyio.run(repeat_every, 0.0, partial(keep, troubles))
    assert [record.message for record in caplog.records] == ["periodic work: no more descriptors"]
