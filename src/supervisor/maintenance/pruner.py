"""The daily pass over rows and objects past their age, in every worker.

There is no leader: the first worker whose turn comes makes the pass, the others find the lock taken
or nothing to do. The turns are drawn at random, so that workers started together do not collide.
The first comes within an hour of the start, so a worker that is restarted every day prunes as well.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import anyio

from shared.retention import Pruned
from supervisor.metrics import Metrics

log = logging.getLogger(__name__)

FIRST_WITHIN_S = 3600.0
EVERY_S = 24 * 3600.0
JITTER = 0.1


class Pruner:
    """`run` until cancelled. `prune` makes a pass; None means that another worker makes one."""

    def __init__(
        self,
        prune: Callable[[], Awaitable[Pruned | None]],
        metrics: Metrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._prune = prune
        self._metrics = metrics
        self._sleep = sleep

    async def run(self) -> None:
        await self._sleep(random.uniform(0, FIRST_WITHIN_S))  # noqa: S311 - jitter
        while True:
            await self._pass()
            pause_s = EVERY_S * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
            await self._sleep(pause_s)

    async def _pass(self) -> None:
        try:
            pruned = await self._prune()
        except Exception:  # trouble with old rows must not end the steps that run now
            self._metrics.prunes.labels(outcome="failed").inc()
            log.exception("pruning failed; tried again tomorrow")
            return
        if pruned is None:
            self._metrics.prunes.labels(outcome="elsewhere").inc()
            return
        self._metrics.prunes.labels(outcome="done").inc()
        log.info("pruned", extra={"pruned": asdict(pruned)})
