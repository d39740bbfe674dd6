"""The daily pass over rows and objects past their age, in every worker.

There is no leader: the first worker whose turn comes makes the pass, the others find the lock taken
or nothing to do. The turns are drawn at random, so that workers started together do not collide.
The first comes within an hour of the start, so a worker that is restarted every day prunes as well.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import anyio

from shared.retention import Pruned
from supervisor.metrics import Metrics, PruneOutcome

log = logging.getLogger(__name__)

FIRST_WITHIN_S = 3600.0
EVERY_S = 24 * 3600.0
JITTER = 0.1


# Makes a pass; None means that another worker makes one.
Prune = Callable[[], Awaitable[Pruned | None]]


async def prune_daily(
    prune: Prune, metrics: Metrics, *, sleep: Callable[[float], Awaitable[None]] = anyio.sleep
) -> None:
    """Prune until cancelled."""
    await sleep(random.uniform(0, FIRST_WITHIN_S))  # noqa: S311 - jitter
    while True:
        outcome = await _prune_once(prune)
        metrics.prunes.labels(outcome=outcome).inc()
        await sleep(EVERY_S * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311


async def _prune_once(prune: Prune) -> PruneOutcome:
    try:
        pruned = await prune()
    except Exception:  # trouble with old rows must not end the steps that run now
        log.exception("pruning failed; tried again tomorrow")
        return PruneOutcome.FAILED
    if pruned is None:
        return PruneOutcome.ELSEWHERE
    log.info("pruned", extra={"pruned": asdict(pruned)})
    return PruneOutcome.DONE
