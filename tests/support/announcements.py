"""What is said on the channel of events."""

from __future__ import annotations

import time

from redis.client import PubSub


def wait_until_announced(channel: PubSub, job: object, timeout_s: float = 20.0) -> None:
    """Return once a message on `channel` names the job."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        message = channel.get_message(timeout=1.0)
        if message and message["type"] == "message" and str(job).encode() in message["data"]:
            return
    raise AssertionError(f"nobody announced events of job {job}")
