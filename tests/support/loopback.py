"""HTTP servers on loopback, and several hosts with one function that answers for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

AnyServer = TypeVar("AnyServer", bound=ThreadingHTTPServer)
Respond = Callable[[str, BaseHTTPRequestHandler], None]


@contextmanager
def serving(server: AnyServer) -> Iterator[AnyServer]:
    """Answer in a thread until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def hosts(names: Sequence[str], respond: Respond) -> Iterator[dict[str, str]]:
    """Serve each name on its own port; `respond(name, request)` answers. Yields the URLs."""
    servers = {
        name: ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, respond, name))
        for name in names
    }
    with ExitStack() as served:
        for server in servers.values():
            served.enter_context(serving(server))
        yield {name: f"http://127.0.0.1:{server.server_port}" for name, server in servers.items()}


def send(
    request: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
    *,
    cut_bytes: int | None = None,
) -> None:
    """Answer; after `cut_bytes` of the body the connection ends."""
    request.send_response(status)
    headers = headers or {}
    for name, value in headers.items():
        request.send_header(name, value)
    if "Content-Length" not in headers:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    try:
        request.wfile.write(body[:cut_bytes])
    except ConnectionError:
        return  # the client was killed, which some tests do


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, respond: Respond, host: str, *arguments: Any) -> None:
        self._respond, self._host = respond, host
        super().__init__(*arguments)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._respond(self._host, self)
