"""A receiver of webhooks: it notes what it gets, and answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook
from tests.support.loopback import serving

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

    def finding(self, job: str, *, artifacts: int) -> str | None:
        """What is wrong with the messages of a job that was told of to its end; None: nothing.

        Each fact came at least once, always with one id, and first in its order.
        """
        first: dict[str, str] = {}  # id -> what it says
        for call in list(self.calls):
            content = json.loads(call.body)
            if content["data"]["job"]["id"] != job:
                continue
            said = f"{content['type']} {content['data'].get('artifact', {}).get('sha256', '')}"
            if first.setdefault(call.id, said) != said:
                return f"{call.id} is {first[call.id]} and {said}"
        if len(set(first.values())) < len(first):
            return f"a fact has two ids: {first}"
        if list(first) != sorted(first, key=lambda id_: int(id_.rpartition("_")[2])):
            return f"not in order: {first}"
        kinds = [said.partition(" ")[0] for said in first.values()]
        if sorted(kinds) != sorted(["job.start", *["job.artifact"] * artifacts, "job.end"]):
            return f"not what happened: {kinds}"
        return None

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
    with serving(Receiver(script, host)) as server:
        yield server
