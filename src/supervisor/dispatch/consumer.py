"""The Celery edge of the worker, and the only file here that knows Celery.

Redis is a doorbell. A message says "look": it is acknowledged at once, the thin task passes the
hint to the supervisor and returns in a millisecond. Whether there is a step, and whose it is,
PostgreSQL decides. That is why a lost, doubled, late or forged message can do no harm.

A message that cannot be read is *buried*: kept on the broker's list `dreamforge.dlq`, counted, and
acknowledged. Celery has no hook for what is no envelope at all: kombu parses inside its poll, and
what that raises ends the worker. Hence our transport, which is kombu's with a look before delivery.

Celery keeps the main thread and all signals; the supervisor has a thread of its own, started after
the pool and drained before it by `SupervisorStep`. Never prefork: its children are daemonic and may
have no children of their own. Never solo: the consumer would stop hearing while a task runs.
"""

from __future__ import annotations

import logging
import ssl
import warnings
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from celery import Celery, bootsteps, signals
from celery.apps.worker import Worker
from celery.platforms import SecurityWarning
from celery.worker.consumer import Consumer

from shared.dispatch.celery_settings import TASK_NAME, celery_queue, celery_settings
from shared.dispatch.dead_letters import DeadMessage, DeadMessages, dead_message
from shared.errors import InfraUnavailable
from supervisor.dispatch import kombu_transport
from supervisor.dispatch.kombu_transport import DeadLetterHandler, reason_text

log = logging.getLogger(__name__)

CONCURRENCY = 2  # the task only passes a hint on


class SupervisorControl(Protocol):
    """The supervisor thread, as the consumer sees it."""

    def start(self) -> None:
        """Start the thread."""

    def notify(self) -> None:
        """Pass a hint on; callable from any thread, never waits."""

    def drain(self) -> None:
        """Stop claiming, let owned steps end, wait for the thread."""

    def count_dead_letter(self) -> None:
        """Count a message that could not be read."""


def consume(
    redis_url: str, queues: tuple[str, ...], supervised: SupervisorControl, name: str
) -> int:
    """Consume doorbell messages until a signal ends the process; return its exit code."""
    # Celery configures logging unless somebody listens to this; ours is configured already.
    signals.setup_logging.connect(_keep_logging)
    # Two lines for each doorbell message say nothing about a job.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Root is what a container runs as, and with JSON alone no message can execute anything.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = Celery("dreamforge", set_as_current=False)
    app.conf.update(celery_settings(redis_url))
    dead_letter = _dead_letter_handler(DeadMessages(redis_url), supervised)
    app.conf.broker_transport = f"{kombu_transport.__name__}:CheckedTransport"
    if urlsplit(redis_url).scheme == "rediss":
        # Naming a transport hides the scheme from kombu, which would then speak plain text. What
        # the URL's query says of certificates still counts, and wins.
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    app.conf.broker_transport_options = app.conf.broker_transport_options | {
        "dead_letter": dead_letter
    }
    app.conf.worker_consumer = _consumer_for(dead_letter)
    # Not shared: else celery would hand it on to every other application of this process.
    app.task(name=TASK_NAME, ignore_result=True, shared=False)(_thin_task(supervised))
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


def _thin_task(supervised: SupervisorControl) -> Any:
    def look(step_id: str | None = None) -> None:
        supervised.notify()

    return look


def _step_for(supervised: SupervisorControl) -> type[bootsteps.StartStopStep]:
    class SupervisorStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Starts the supervisor thread once the pool runs; drains it before the pool stops."""

        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Worker) -> None:
            supervised.start()

        def stop(self, worker: Worker) -> None:
            supervised.drain()

        # A second signal. Nobody is in a hurry enough to leave a device dirty: it drains just the
        # same. Who cannot wait sends SIGKILL; the kernel then ends the runners with us, and the
        # rescuer of another worker takes their steps.
        def terminate(self, worker: Worker) -> None:
            supervised.drain()

    return SupervisorStep


# Messages that cannot be read ---------------------------------------------------------------------


def _dead_letter_handler(dead: DeadMessages, supervised: SupervisorControl) -> DeadLetterHandler:
    def dead_letter(message: DeadMessage) -> None:
        log.error("%s: a message cannot be read: %s", message.queue, message.reason)
        supervised.count_dead_letter()
        try:
            dead.add(message)
        except InfraUnavailable as error:
            log.error("the message is lost: %s", error.message)

    return dead_letter


def _consumer_for(dead_letter: DeadLetterHandler) -> type[Consumer]:
    """Celery's consumer, with everything that it would log and forget buried instead."""

    class DeadLetterConsumer(Consumer):  # type: ignore[misc]
        def on_decode_error(self, message: Any, exc: Exception) -> None:
            self._dead_letter(message, exc)

        def on_unknown_message(self, body: Any, message: Any) -> None:
            self._dead_letter(message, "names no task")

        def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
            self._dead_letter(message, f"unknown task {exc}")

        def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
            self._dead_letter(message, exc)

        def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
            handle = super().create_task_handler(*args, **kwargs)

            def on_task_received(message: Any) -> None:
                try:
                    handle(message)
                except KeyError as error:
                    # kombu lists it among its connection errors; the message would come back, and
                    # cost the connection, for ever.
                    self._dead_letter(message, error)
                except self.connection_errors:
                    raise
                # Headers that are not what Celery expects of them raise whatever comes to its mind,
                # and would end the worker.
                except Exception as error:
                    self._dead_letter(message, error)

            return on_task_received

        def _dead_letter(self, message: Any, reason: object) -> None:
            queue = (message.delivery_info or {}).get("routing_key", "")
            dead_letter(
                dead_message(queue=str(queue), reason=reason_text(reason), body=message.body)
            )
            if not message.acknowledged:
                message.ack_log_error(log, self.connection_errors)

    return DeadLetterConsumer
