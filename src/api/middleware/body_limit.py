"""The body of a request: how large it may be, and how long it may take to arrive."""

import time

import anyio
from starlette.types import Message, Receive

from api.errors import BodyRefused
from shared.errors import InvalidInput, PayloadTooLarge

# Enough for a megabyte over a bad mobile connection. A slower client only holds a connection open.
BODY_TIMEOUT_S = 30.0
# A picture of 50 MB over a line of 100 kB/s.
UPLOAD_TIMEOUT_S = 600.0
# How much of a refused body is read before its sender is cut off.
MAX_DISCARD_BYTES = 256 << 20
DISCARD_TIMEOUT_S = 10.0


def too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the request body is over {max_bytes} bytes", maximum=max_bytes)


async def discard(receive: Receive) -> None:
    """Let a client finish sending what we refuse, within bounds.

    Most clients read no answer before they have sent everything. Closing on them earlier resets
    the connection, and the reason is lost with it.
    """
    seen_bytes = 0
    with anyio.move_on_after(DISCARD_TIMEOUT_S):
        while seen_bytes < MAX_DISCARD_BYTES:
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


class BoundedBody:
    """A `receive` that counts bytes and seconds until the body is complete."""

    def __init__(self, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._seen_bytes = 0
        self._complete = False
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    async def receive(self) -> Message:
        if self._complete:  # only a disconnect can follow, any time
            return await self._receive()
        try:
            with anyio.fail_after(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise BodyRefused(
                InvalidInput(f"the body did not arrive within {self._timeout_s:g} s")
            ) from None
        self._seen_bytes += len(message.get("body", b""))
        if self._seen_bytes > self._max_bytes:
            if message.get("more_body", False):
                await discard(self._receive)
            raise BodyRefused(too_large(self._max_bytes))
        self._complete = not message.get("more_body", False)
        return message
