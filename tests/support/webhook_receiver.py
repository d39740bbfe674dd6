"""A receiver of webhooks: it notes what it gets, and answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

# Status and headers for the request with this number, from 0.
Script = Callable[[int], tuple[int, dict[str, str]]]


@dataclass(frozen=True, kw_only=True)
class Call:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def content(self, secret: str) -> Any:
        """The content, if the library of the specification accepts its signature."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver(ThreadingHTTPServer):
    """Listens on a free port. `script` may block: each request has a thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, script: Script, host: str) -> None:
        super().__init__((host, 0), _Handler)
        self.script = script
        self.calls: list[Call] = []
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.port}/hook?key=1"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            number = len(self.server.calls)
            self.server.calls.append(Call(path=self.path, headers=headers, body=body))
        status, more = self.server.script(number)
        self.send_response(status)
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()


def accept(_: int) -> tuple[int, dict[str, str]]:
    return 204, {}


@contextmanager
def receiver(script: Script = accept, *, host: str = "127.0.0.1") -> Iterator[Receiver]:
    with Receiver(script, host) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
