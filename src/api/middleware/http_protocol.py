"""HTTP/1.1 as uvicorn and h11 speak it, with what we promise before there is a request.

Bytes that are no HTTP get our envelope too, with an `X-Request-Id` and a line in the log. The
status is 400 and not 422, as RFC 9112 demands. And a head must arrive in time: a connection that
sends it byte by byte, or sends nothing, would hold an open file for ever.
"""

import asyncio
import logging
from uuid import uuid4

from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from api.errors import envelope
from shared.errors import InvalidInput
from shared.strict_http import StrictProtocol

log = logging.getLogger(__name__)

# From the connection, or the first byte after an answer, to a complete head.
HEAD_TIMEOUT_S = 30.0


class Protocol(StrictProtocol):
    """One connection."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # the first bytes after an answer
            self._expect_head()
        super().data_received(data)

    def shutdown(self) -> None:
        """uvicorn ends. It would wait for open streams for ever, so they end first."""
        if (hub := self.app_state.get("hub")) is not None:
            hub.close()
        super().shutdown()

    def on_response_complete(self) -> None:
        self._stop_waiting()
        if self.conn.trailing_data[0]:  # the next request, or its beginning, is here already
            self._expect_head()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """This is no HTTP, or not all would read it alike; `msg` is uvicorn's own text."""
        if not self._in_an_answer():  # an answer that has begun is cut, so that the client sees it
            correlation_id = uuid4().hex
            log.warning("not HTTP: %s", self.conn.problem, extra={"correlation_id": correlation_id})
            self.transport.write(_not_http(self.conn.problem, correlation_id))
        if self.cycle is not None:  # a broken body: end the handler that waits for it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _in_an_answer(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def _expect_head(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up, self.cycle)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self, before: RequestResponseCycle | None) -> None:
        if self.cycle is before:
            self.transport.close()


def _not_http(problem: str, correlation_id: str) -> bytes:
    """The bytes of the whole answer."""
    answer = envelope(
        InvalidInput(problem),
        correlation_id,
        {
            "X-Request-Id": correlation_id,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Connection": "close",
        },
    )
    head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
    return b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body)
