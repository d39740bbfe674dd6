"""The worker's Celery consumer: turns messages into notifications of the supervisor.

A message only notifies: "look for work". It is acknowledged at once; the task passes the
notification to the supervisor and returns in a millisecond. PostgreSQL decides whether there is a
step, and whose it is. So a lost, doubled, late or forged message does no harm.

An unreadable message becomes a *dead letter*: kept on the broker's list `dreamforge.dlq`, counted,
and acknowledged. What is no envelope at all never reaches Celery's hooks: `kombu_transport`.

Celery keeps the main thread, which gets the signals. The supervisor has a thread of its own: it is
started after the pool and drained before it by `SupervisorStep`. Never prefork: its children are
daemonic and may have no children of their own. Never solo: the consumer would receive nothing while
a task runs.
"""

import logging
import ssl
import warnings
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from celery import Celery, bootsteps, platforms, signals
from celery.apps.worker import Worker
from celery.platforms import SecurityWarning
from celery.worker import state
from celery.worker.consumer import Consumer

from shared.dispatch.celery_settings import TASK_NAME, celery_queue, celery_settings
from shared.dispatch.dead_letters import DeadMessages, dead_message
from shared.errors import InfraUnavailable
from shared.states import DEFAULT_QUEUE
from supervisor.dispatch import kombu_transport
from supervisor.dispatch.kombu_transport import DeadLetterHandler

log = logging.getLogger(__name__)

CONCURRENCY = 2  # the task only notifies


class SupervisorControl(Protocol):
    """What the consumer needs of the supervisor's thread."""

    def start(self) -> None: ...

    def notify(self) -> None:
        """Have it look for work; callable from any thread, never waits."""

    def drain(self) -> None:
        """Stop claiming, let owned steps end, wait for the thread."""

    def count_dead_letter(self) -> None:
        """Count a message that could not be read."""


def consume(redis_url: str, supervisor: SupervisorControl, name: str) -> int:
    """Consume notifications until a signal ends the process; return its exit code."""
    # Celery configures logging unless this signal has a receiver; ours is configured already.
    signals.setup_logging.connect(_keep_logging)
    # Two lines for each message would say nothing about a job.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # Root is what a container runs as, and with JSON alone no message can execute anything.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app = Celery("dreamforge", set_as_current=False)
    app.conf.update(celery_settings(redis_url))
    dead_letter = _dead_letter_handler(DeadMessages(redis_url), supervisor)
    app.conf.broker_transport = f"{kombu_transport.__name__}:CheckedTransport"
    if urlsplit(redis_url).scheme == "rediss":
        # A named transport hides the scheme from kombu, which would then send plain text. What the
        # URL's query says of certificates still wins.
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    app.conf.broker_transport_options = app.conf.broker_transport_options | {
        "dead_letter": dead_letter
    }
    app.conf.worker_consumer = _consumer_for(dead_letter)
    # Not shared: else Celery would register it with every other application of this process.
    app.task(name=TASK_NAME, ignore_result=True, shared=False)(_notify_task(supervisor))
    app.steps["worker"].add(_step_for(supervisor))
    worker = DrainingWorker(
        app=app,
        hostname=name,
        pool="threads",
        concurrency=CONCURRENCY,
        queues=[celery_queue(DEFAULT_QUEUE)],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        redirect_stdouts=False,
        quiet=True,
        loglevel="WARNING",
    )
    worker.start()
    return int(worker.exitcode or 0)


class DrainingWorker(Worker):  # type: ignore[misc]
    """Celery's worker, for which each signal that ends a process means the same: drain, then end.

    Celery's own handlers write to stdout, between our lines of JSON, and restart the program at
    SIGHUP.
    """

    def install_platform_tweaks(self, worker: Worker) -> None:
        platforms.signals.update(dict.fromkeys(("TERM", "INT", "QUIT", "HUP"), _stop))


def _stop(_number: int, _frame: object) -> None:
    state.should_stop = 0  # the exit code; the consumer looks at it between two messages


def _keep_logging(**_: Any) -> None:
    """Leave the handlers and levels as they are."""


def _notify_task(supervisor: SupervisorControl) -> Any:
    def notify(step_id: str | None = None) -> None:
        supervisor.notify()

    return notify


def _step_for(supervisor: SupervisorControl) -> type[bootsteps.StartStopStep]:
    class SupervisorStep(bootsteps.StartStopStep):  # type: ignore[misc]
        """Starts the supervisor thread once the pool runs; drains it before the pool stops."""

        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Worker) -> None:
            supervisor.start()

        def stop(self, worker: Worker) -> None:
            supervisor.drain()

        # A second signal drains just the same: no hurry justifies an unverified device. An operator
        # who cannot wait sends SIGKILL; the kernel then ends the runners with us, and the rescuer
        # of another worker takes their steps.
        terminate = stop

    return SupervisorStep


# Dead letters -------------------------------------------------------------------------------------


def _dead_letter_handler(dead: DeadMessages, supervisor: SupervisorControl) -> DeadLetterHandler:
    def dead_letter(*, queue: str, reason: object, body: object) -> None:
        text = f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else reason
        message = dead_message(queue=queue, reason=str(text)[:200], body=body)
        log.error("%s: a message cannot be read: %s", message.queue, message.reason)
        supervisor.count_dead_letter()
        try:
            dead.add(message)
        except InfraUnavailable as error:
            log.error("the message is lost: %s", error)

    return dead_letter


def _body_problem(body: Any) -> str | None:
    """Why this body is none of ours; None for one that notifies of at most one step."""
    match body:
        case [[] | [str()], dict() as named, dict() as options] if not (
            named or any(options.values())
        ):
            return None
        case [list(), dict(), dict()]:
            # Celery would send the tasks that the options name, to any queue.
            return "has other arguments than a step's id, or asks for more tasks"
        case _:
            return "has no arguments as a task has them"


def _release_on_failure(handle: Callable[[Any], None], message: Any) -> None:
    """Call `handle`; what Celery had reserved for a message that it cannot run is free again.

    Else two such messages would fill the pool for ever, and the consumer would receive no more.
    """
    before = set(state.reserved_requests)
    try:
        handle(message)
    except Exception:
        for request in set(state.reserved_requests) - before:
            state.task_ready(request)
        raise


def _consumer_for(dead_letter: DeadLetterHandler) -> type[Consumer]:
    """Celery's consumer, but every message that it would log and drop becomes a dead letter."""

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
                    if "task" not in message.headers:
                        self._dead_letter(message, "names no task")
                    elif message.headers.get("eta") is not None:
                        # It would be kept here, unacknowledged, and come back every minute.
                        self._dead_letter(message, "is for another time")
                    elif (problem := _body_problem(message.payload)) is not None:
                        self._dead_letter(message, problem)
                    else:
                        _release_on_failure(handle, message)
                except KeyError as error:
                    # kombu counts it as a connection error: the message would come back, and cost
                    # the connection, for ever.
                    self._dead_letter(message, error)
                except self.connection_errors:
                    raise
                # Headers that Celery does not expect raise any exception, and would end the worker.
                except Exception as error:
                    self._dead_letter(message, error)

            return on_task_received

        def _dead_letter(self, message: Any, reason: object) -> None:
            queue = (message.delivery_info or {}).get("routing_key", "")
            dead_letter(queue=str(queue), reason=reason, body=message.body)
            if not message.acknowledged:
                message.ack_log_error(log, self.connection_errors)

    return DeadLetterConsumer
