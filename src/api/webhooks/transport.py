"""Sends one webhook, and bounds what its receiver can do to us.

The name of the receiver is resolved here, once. Its addresses are judged, and the connection goes
to one of those that passed: the request's URL has the address in it, so nothing resolves the name
a second time and could get another answer (DNS rebinding). The name stays in the `Host` header, and
TLS checks the receiver's certificate for it.

Each request has a client of its own. A pool knows connections by their address, and would send a
message for one name over a connection whose certificate was checked for another.

Redirects are not followed, no proxy is used, and nothing is read but the head of the answer. All of
it, the resolving too, ends after `DEADLINE_S`.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address

import anyio
import httpx
from anyio import CapacityLimiter

from api.webhooks.addresses import Address, is_allowed
from shared.reasons import reason
from shared.threads import run_in_thread
from shared.webhooks import Network

log = logging.getLogger(__name__)

DEADLINE_S = 15.0
CONNECT_S = 5.0
# Of those that a name resolves to.
ADDRESSES_TRIED = 3
# The messages that one process sends at a time.
AT_ONCE = 64
# Of the text of an error: it may quote what a receiver sent, 100 kB of it.
MAX_WHY = 300

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class NotDelivered(Exception):
    """An attempt failed; the text says why, and is shown to the operator.

    The text is cut to `MAX_WHY`, and has nothing that a terminal obeys or PostgreSQL refuses.
    `retry_after_s` is what the receiver asked for, without a bound. `gone`: it wants no more of
    this.
    """

    def __init__(self, why: str, *, retry_after_s: float | None = None, gone: bool = False) -> None:
        super().__init__("".join(each if each.isprintable() else "?" for each in why[:MAX_WHY]))
        self.retry_after_s = retry_after_s
        self.gone = gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What is sent, the same in each attempt but for its time."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Sends messages to where they may go. Belongs to one event loop."""

    def __init__(self, private: Sequence[Network], *, resolve: Resolve | None = None) -> None:
        self._private = private
        self._resolve = resolve or _Resolver()
        # The operator's own authorities: SSL_CERT_FILE and SSL_CERT_DIR.
        self._tls = httpx.create_ssl_context()

    async def send(self, message: Message) -> None:
        """Return when the receiver has accepted the message. Raises `NotDelivered`."""
        try:
            with anyio.fail_after(DEADLINE_S):
                await self._send(message)
        except TimeoutError:
            raise NotDelivered(f"no answer within {DEADLINE_S:g} s") from None
        except httpx.HTTPError as error:
            raise NotDelivered(f"{type(error).__name__}: {reason(error)}") from error

    async def _send(self, message: Message) -> None:
        url = httpx.URL(message.url)
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        addresses = await self._allowed(url.host, port)
        for address in addresses[: ADDRESSES_TRIED - 1]:
            try:
                return await self._post(url, address, message)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                log.debug("webhook: %s does not answer (%s)", address, error)
        await self._post(url, addresses[:ADDRESSES_TRIED][-1], message)

    async def _allowed(self, host: str, port: int) -> list[Address]:
        """The addresses of a name that may be called. Raises `NotDelivered` where none may."""
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError, ValueError) as error:
            raise NotDelivered(f"the name cannot be resolved: {error}") from error
        allowed = [address for address in found if is_allowed(address, self._private)]
        if not allowed:
            raise NotDelivered(
                "the address is private, and DF_WEBHOOK_PRIVATE does not name its network"
            )
        return allowed

    async def _post(self, url: httpx.URL, address: Address, message: Message) -> None:
        headers = {**message.headers, "Host": url.netloc.decode("ascii")}
        timeout = httpx.Timeout(DEADLINE_S, connect=CONNECT_S)
        pinned = url.copy_with(host=str(address))
        async with (
            httpx.AsyncClient(
                verify=self._tls, timeout=timeout, trust_env=False, follow_redirects=False
            ) as client,
            client.stream(
                "POST",
                pinned,
                content=message.body,
                headers=headers,
                extensions={"sni_hostname": url.raw_host.decode("ascii")},
            ) as answer,
        ):
            _judge(answer)  # its body is not read: the connection ends here


def _judge(answer: httpx.Response) -> None:
    """Return for an answer that means "received". Raises `NotDelivered`."""
    status = answer.status_code
    if answer.is_success:
        return
    if answer.is_redirect:
        raise NotDelivered(f"answered {status}: redirects are not followed")
    raise NotDelivered(
        f"answered {status}",
        retry_after_s=retry_after_s(answer.headers.get("Retry-After", "")),
        gone=status == httpx.codes.GONE,
    )


def retry_after_s(text: str, *, now: datetime | None = None) -> float | None:
    """`Retry-After` in seconds, from either of its forms; None for a text that is neither.

    As large as the receiver says: infinite, where a float holds no more.
    """
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: a date without a zone
        return None


class _Resolver:
    """The system's resolver. Raises `OSError`.

    It has threads of its own: a name server that does not answer must not hold up the resolving
    that our connections to PostgreSQL need. There is one for each message that is being sent, so
    that no name waits for another one's server.
    """

    def __init__(self) -> None:
        self._limiter: CapacityLimiter | None = None

    async def __call__(self, host: str, port: int) -> list[Address]:
        if self._limiter is None:  # needs a running event loop
            self._limiter = CapacityLimiter(AT_ONCE)
        found = await run_in_thread(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), limiter=self._limiter
        )
        return list(dict.fromkeys(ip_address(each[4][0]) for each in found))
