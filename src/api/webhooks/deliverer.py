"""Delivers webhooks: claims what is due, sends it, and writes what came of it.

Each api process does this, where the installation has secrets to sign with. They share the work
through the database (`shared.db.deliveries`): a claim is a lease, so what a killed process had in
hand is due again a little later, with the same id. A receiver that hangs holds one of `PER_HOST`
places of its host, for `DEADLINE_S`, and no other host's. A user with many such receivers holds
`PER_USER` places, and no other user's.

A process looks once a second, and at once when it hears that a job has new events.
"""

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Collection, Mapping
from uuid import UUID

import anyio
from anyio.abc import TaskGroup

from api.metrics import Metrics
from api.schemas.responses import iso
from api.webhooks.transport import AT_ONCE, DEADLINE_S, Message, NotDelivered, Transport
from shared.db import deliveries
from shared.db.deliveries import Delivery
from shared.db.delivery_claim import InFlight, claim
from shared.db.engine import Database
from shared.errors import InfraUnavailable
from shared.retry import backoff_s
from shared.settings import Settings
from shared.states import DeliveryState
from shared.webhooks import sign

log = logging.getLogger(__name__)

# A receiver's host and port. Ports and subdomains cost nothing, hence the bound for each user.
PER_HOST = 4
PER_USER = max(1, AT_ONCE // 4)
POLL_S = 1.0
# Between two looks, however often the process is woken.
SPACING_S = 0.25
# The pause after a look that failed in a way that nobody foresaw.
AWAY_S = 1.0
# More than an attempt takes with what is written about it.
LEASE_S = 2 * DEADLINE_S
# Full jitter: anything between nothing and these, which double.
FIRST_PAUSE_S, MOST_PAUSE_S = 10.0, 3600.0
# What is being sent when the process ends gets so long. After it, it is sent again by another.
FINISH_S = 3.0


class Deliverer:
    """Start `run` in a task group of the process."""

    def __init__(
        self, database: Database, settings: Settings, metrics: Metrics, transport: Transport
    ) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics
        self._transport = transport
        self._hosts: Counter[str] = Counter()  # in flight
        self._users: Counter[str] = Counter()  # in flight
        self._walked: Mapping[str, str] = {}  # as `claim` returned it
        self._wakeup = anyio.Event()
        self._closed = False
        self._idle = anyio.Event()

    def wake(self, _job_ids: Collection[UUID] = ()) -> None:
        """Something may be due. Never waits, never raises."""
        self._wakeup.set()

    async def run(self) -> None:
        """Deliver until `finish`, or until cancelled."""
        async with anyio.create_task_group() as tasks:
            while not self._closed:
                self._wakeup = anyio.Event()
                await self._deliver_due(tasks)
                await anyio.sleep(SPACING_S)
                with anyio.move_on_after(POLL_S * random.uniform(0.8, 1.2)):  # noqa: S311
                    await self._wakeup.wait()
        self._idle.set()

    async def finish(self) -> None:
        """Claim no more, and wait a little for what is being sent."""
        self._closed = True
        self._wakeup.set()
        with anyio.move_on_after(FINISH_S):
            await self._idle.wait()

    async def _deliver_due(self, tasks: TaskGroup) -> None:
        free = AT_ONCE - self._users.total()
        if free <= 0:
            return  # the next one that ends wakes us
        try:
            claimed, self._walked = await self._database.transaction(
                claim,
                limit=free,
                hosts=InFlight(counts=self._hosts, most=PER_HOST),
                users=InFlight(counts=self._users, most=PER_USER),
                after=self._walked,
                lease_s=LEASE_S,
            )
        except InfraUnavailable as error:
            log.warning("webhooks wait: %s", error)
            return
        except Exception:  # a bug in one look must not end all deliveries, and the process's hub
            log.exception("webhooks wait: a look failed")
            await anyio.sleep(AWAY_S)
            return
        for delivery in claimed:
            self._hosts[delivery.host] += 1
            self._users[delivery.user] += 1
            tasks.start_soon(self._deliver, delivery)

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            outcome = await self._attempt(delivery)
            self._metrics.webhooks.labels(outcome).inc()
        except InfraUnavailable as error:  # not written: it is due again, and sent once more
            log.warning("webhook %s: not recorded, %s", delivery.id, error)
        except Exception:  # a bug of ours must not end the task that serves all others
            log.exception("webhook %s: not recorded", delivery.id)
        finally:
            self._hosts -= Counter([delivery.host])  # without the zeros
            self._users -= Counter([delivery.user])
            self.wake()

    async def _attempt(self, delivery: Delivery) -> str:
        """Send it once and write what came of it; the outcome's name."""
        try:
            await self._transport.send(self._message(delivery))
        except NotDelivered as error:
            return await self._failed(delivery, error)
        except Exception as error:  # a bug too: the message waits its turn to be tried again
            log.exception("webhook %s: the attempt failed", delivery.id)
            return await self._failed(delivery, NotDelivered(type(error).__name__))
        await self._database.transaction(deliveries.delivered, delivery)
        return "delivered"

    async def _failed(self, delivery: Delivery, error: NotDelivered) -> str:
        state = await self._database.transaction(
            deliveries.failed,
            delivery,
            str(error),
            pause_s=None if error.gone else _pause_s(delivery.attempts, error),
        )
        dead = state is DeliveryState.DEAD
        log.log(
            logging.ERROR if dead else logging.WARNING,
            "webhook %s to %s: %s%s",
            delivery.id,
            delivery.host,
            error,
            "; given up" if dead else "",
            extra={"job_id": str(delivery.job_id), "attempts": delivery.attempts},
        )
        return "dead" if dead else "failed"

    def _message(self, delivery: Delivery) -> Message:
        """The signed message. Raises `NotDelivered` for a user without a secret."""
        keys = self._settings.webhook_keys_of(delivery.user)
        if not keys:
            raise NotDelivered(f"DF_WEBHOOK_SECRETS has no secret for {delivery.user!r}")
        content = {
            "type": f"job.{delivery.event}",
            "timestamp": iso(delivery.created_at),
            "data": delivery.payload,
        }
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        sent_at = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "dreamforge",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": sign(keys, delivery.id, sent_at, body),
        }
        return Message(url=delivery.url, headers=headers, body=body)


def _pause_s(attempts: int, error: NotDelivered) -> float:
    """Never longer than a message is tried: a receiver may ask for more than a date can hold."""
    own_s = backoff_s(attempts, first_s=FIRST_PAUSE_S, most_s=MOST_PAUSE_S, jitter=1.0)
    # In this order a NaN is no pause of theirs.
    return min(deliveries.TRIED_S, max(own_s, error.retry_after_s or 0.0))
