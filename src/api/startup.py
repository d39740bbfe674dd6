"""Before the first request: what `shared.readiness` waits for, and a word about the broker."""

from __future__ import annotations

import logging

from api.dispatch import Notifier
from api.metrics import Metrics
from shared import readiness
from shared.settings import Settings

log = logging.getLogger(__name__)


async def wait_for_parts(settings: Settings) -> None:
    """Return when jobs can be accepted. Raises `shared.readiness.NotReady`.

    The broker is only a doorbell: its absence is said, and no reason to stay away.
    """
    await readiness.wait_for_parts(settings)
    url = settings.redis_url.get_secret_value()
    notifier = Notifier(url, timeout_s=settings.doorbell_timeout_s, metrics=Metrics())
    if not await notifier.ping():
        log.warning(
            "DF_REDIS_URL: the broker at %s cannot be reached; workers find jobs by polling",
            readiness.address_of(url),
        )
    await notifier.close()
