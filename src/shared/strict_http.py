"""HTTP/1.1 heads that every server and proxy reads alike; all others are refused.

h11 is lenient where the older RFCs allowed it: it joins folded lines, takes a bare LF for the end
of a line, and lets `Transfer-Encoding` win over `Content-Length`. A proxy in front of us may read
such a head differently, and the two would then disagree where a request ends: what a client hides
there is taken for the next request (request smuggling; RFC 9112, sections 2.2, 5.2, 6.1 and 11.2).
No client of ours needs any of it, so each is answered with 400, and the connection ends.
"""

import re
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLDED = re.compile(rb"\n[ \t]")
_VERSIONS = {b"1.0", b"1.1"}


class StrictConnection(h11.Connection):
    """h11's connection of a server, which also checks the bytes that h11 took for a head.

    `problem` is why the last request was refused.
    """

    problem = "this is not a valid HTTP request"

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self._chunked = False
        self._cr = b""  # where the bytes taken so far end with it, and its LF is still to come

    def next_event(self) -> Any:
        """h11's next event. Raises `h11.RemoteProtocolError`."""
        if not (self._chunked or self.their_state is h11.IDLE):
            return super().next_event()
        before = self.trailing_data[0]
        event = super().next_event()
        taken = before[: len(before) - len(self.trailing_data[0])]
        if isinstance(event, h11.Request):
            self._check_head(event)
        if isinstance(event, h11.Request | h11.EndOfMessage):  # the end has the trailers
            self._check_lines(self._cr + taken)
        if taken:
            self._cr = b"\r" if taken.endswith(b"\r") else b""
        if isinstance(event, h11.EndOfMessage):
            self._chunked = False
        return event

    def _check_head(self, request: h11.Request) -> None:
        names = {name for name, _ in request.headers}
        self._chunked = b"transfer-encoding" in names
        if request.http_version not in _VERSIONS:
            self._refuse("only HTTP/1.1 and HTTP/1.0 are spoken here")
        if self._chunked and b"content-length" in names:
            self._refuse("Content-Length and Transfer-Encoding are both there; send one of them")
        if self._chunked and request.http_version == b"1.0":
            self._refuse("HTTP/1.0 has no Transfer-Encoding; send Content-Length, or HTTP/1.1")

    def _check_lines(self, lines: bytes) -> None:
        if _BARE_LF.search(lines):
            self._refuse("a line of the head ends without CR; each must end with CR and LF")
        if _FOLDED.search(lines):
            self._refuse("a header is folded over several lines; send it in one")

    def _refuse(self, problem: str) -> None:
        self.problem = problem
        raise h11.RemoteProtocolError(problem)


class StrictProtocol(H11Protocol):
    """uvicorn's protocol on a `StrictConnection`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: StrictConnection = StrictConnection()
