"""HTTP/1.1 heads that every server and proxy reads alike; all others are refused.

h11 is lenient where the older RFCs allowed it: it joins folded lines, takes a bare LF for the end
of a line, lets `Transfer-Encoding` win over `Content-Length`, takes two equal lengths for one, and
any byte but LF in the extension of a chunk. A proxy in front of us may read
such a head differently, and the two would then disagree where a request ends: what a client hides
there is taken for the next request (request smuggling; RFC 9112, sections 2.2, 5.2, 6.1 and 11.2).
No client of ours needs any of it, so each is answered with 400, and the connection ends.
"""

import re
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n|\Z)")  # at the end, its LF may be still to come
_LENGTH = re.compile(rb"^content-length:[ \t]*(.*?)[ \t]*\r$", re.IGNORECASE | re.MULTILINE)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FOLDED = re.compile(rb"\n[ \t]")
_VERSIONS = {b"1.0", b"1.1"}
# As many as h11 keeps of a head that is not complete; one that came at once would have no bound.
MAX_HEAD_BYTES = 16 << 10
# How long a connection may be idle after an answer. Proxies keep theirs for up to 75 s: one that we
# close first may be chosen at that very moment, and the client gets a 502.
IDLE_TIMEOUT_S = 80


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
        data = len(event.data) if isinstance(event, h11.Data) else 0
        framing = taken[: len(taken) - data]  # the lines that a chunk begins with, or the head
        if isinstance(event, h11.Request):
            self._check_head(event, taken)
        if isinstance(event, h11.Request | h11.EndOfMessage):  # the end has the trailers
            self._check_lines(self._cr + framing)
        if _BARE_CR.search(self._cr + framing) or _CONTROL.search(framing):
            self._refuse("a control character stands in a line of the head or of a chunk")
        if taken:
            self._cr = b"\r" if framing.endswith(b"\r") and not data else b""
        if isinstance(event, h11.EndOfMessage):
            self._chunked = False
        return event

    def _check_head(self, request: h11.Request, head: bytes) -> None:
        names = {name for name, _ in request.headers}
        self._chunked = b"transfer-encoding" in names
        if request.http_version not in _VERSIONS:
            self._refuse("only HTTP/1.1 and HTTP/1.0 are spoken here")
        if self._chunked and b"content-length" in names:
            self._refuse("Content-Length and Transfer-Encoding are both there; send one of them")
        if len(head) > MAX_HEAD_BYTES:
            self._refuse(f"the head has more than {MAX_HEAD_BYTES} bytes")
        lengths = _LENGTH.findall(head)
        if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
            self._refuse("Content-Length must be there once, with one number")
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
