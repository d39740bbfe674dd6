"""The worker's daily pass: spread out, repeated, and harmless to the steps when it fails."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import anyio
import pytest

from shared.errors import InfraUnavailable
from shared.retention import Pruned
from supervisor.maintenance import pruner
from supervisor.metrics import Metrics

Outcome = Pruned | Exception | None


class Enough(Exception):
    pass


def keep(outcomes: Sequence[Outcome]) -> tuple[list[str], list[float], Metrics]:
    """Let it live for so many passes; what it did in order, how long it slept, what it counted."""
    left, slept, metrics = list(outcomes), list[float](), Metrics()
    done: list[str] = []

    async def sleep(seconds: float) -> None:
        if not left:
            raise Enough
        slept.append(seconds)
        done.append("sleep")

    async def prune() -> Pruned | None:
        done.append("prune")
        match left.pop(0):
            case Exception() as error:
                raise error
            case outcome:
                return outcome

    with pytest.raises(Enough):
        anyio.run(partial(pruner.prune_daily, prune, metrics, sleep=sleep))
    return done, slept, metrics


def counted(metrics: Metrics, outcome: str) -> float | None:
    return metrics.registry.get_sample_value("dreamforge_prunes_total", {"outcome": outcome})


def test_the_first_pass_comes_within_an_hour_the_next_a_day_later() -> None:
    done, slept, _ = keep([Pruned(), Pruned(), Pruned()])
    assert done == ["sleep", "prune"] * 3
    first, *others = slept
    assert 0 <= first <= pruner.FIRST_WITHIN_S
    assert all(abs(pause_s - pruner.EVERY_S) <= 0.1 * pruner.EVERY_S for pause_s in others)


def test_workers_that_start_together_do_not_prune_together() -> None:
    times = {keep([Pruned()])[1][0] for _ in range(5)}
    assert len(times) == 5


def test_a_pass_that_fails_is_logged_and_counted_and_the_next_one_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = [InfraUnavailable("the store is away"), RuntimeError("a bug")]
    with caplog.at_level(logging.ERROR):
        _, _, metrics = keep([*failures, Pruned(jobs=1)])
    assert counted(metrics, "failed") == 2
    assert counted(metrics, "done") == 1
    assert caplog.text.count("pruning failed") == 2


def test_a_pass_made_elsewhere_is_no_failure() -> None:
    _, _, metrics = keep([None])
    assert counted(metrics, "elsewhere") == 1
    assert counted(metrics, "failed") == 0
