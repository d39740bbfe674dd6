"""The Celery edge of the worker, and the only file here that knows Celery.

Redis is a doorbell. A message says "look": it is acknowledged at once, the thin task passes the
hint to the supervisor and returns in a millisecond. Whether there is a step, and whose it is,
PostgreSQL decides. That is why a lost, doubled, late or forged message can do no harm.

Celery keeps the main thread and all signals; the supervisor has a thread of its own, started after
the pool and drained before it by `SupervisorStep`. Never prefork: its children are daemonic and may
have no children of their own. Never solo: the consumer would stop hearing while a task runs.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any, Protocol

from celery import Celery, bootsteps, signals
from celery.apps.worker import Worker
from celery.platforms import SecurityWarning

from shared.doorbell import TASK_NAME, celery_queue, celery_settings

CONCURRENCY = 2  # the task only passes a hint on


class Supervised(Protocol):
    """The supervisor thread, as the consumer sees it."""

    def start(self) -> None:
        """Start the thread."""

    def ring(self) -> None:
        """Pass a hint on; callable from any thread, never waits."""

    def drain(self) -> None:
        """Stop claiming, let owned steps end, wait for the thread."""


def consume(redis_url: str, queues: tuple[str, ...], supervised: Supervised, name: str) -> int:
    """Consume doorbell messages until a signal ends the process; return its exit code."""
    # Celery configures logging unless somebody listens to this; ours is configured already.
    signals.setup_logging.connect(_keep_logging)
    # Two lines for each doorbell message say nothing about a job.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Root is what a container runs as, and with JSON alone no message can execute anything.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = Celery("dreamforge", set_as_current=False)
    app.conf.update(celery_settings(redis_url))
    app.task(name=TASK_NAME, ignore_result=True)(_thin_task(supervised))
    app.steps["worker"].add(_step_for(supervised))
    worker: Worker = app.Worker(
        hostname=name,
        pool="threads",
        concurrency=CONCURRENCY,
        queues=[celery_queue(queue) for queue in queues],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        redirect_stdouts=False,
        quiet=True,
        loglevel="WARNING",
    )
    worker.start()
    return int(worker.exitcode or 0)


def _keep_logging(**_: Any) -> None:
    """Leave the handlers and levels as they are."""


def _thin_task(supervised: Supervised) -> Any:
    def look(step_id: str | None = None) -> None:
        supervised.ring()

    return look


def _step_for(supervised: Supervised) -> type[bootsteps.StartStopStep]:
    class SupervisorStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Starts the supervisor thread once the pool runs; drains it before the pool stops."""

        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Worker) -> None:
            supervised.start()

        def stop(self, worker: Worker) -> None:
            supervised.drain()

        # SIGQUIT and a second SIGTERM: the kernel ends the runners with us, and the sweeper of
        # another worker takes their steps. There is nothing to do in between.
        def terminate(self, worker: Worker) -> None:
            supervised.drain()

    return SupervisorStep
