"""A proxy in front of PostgreSQL that counts round trips: questions, not messages or statements."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class CountingProxy:
    """`round_trips` is how often a client began to send after the server had answered."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None and address.port is not None
        self._server = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        at = f"@{address.netloc.rpartition('@')[2]}"
        self.url = url.replace(at, f"@127.0.0.1:{port}")
        self.round_trips = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                answered = threading.Event()
                answered.set()
                for pump in (self._ask, self._answer):
                    thread = threading.Thread(target=pump, args=(client, server, answered))
                    self._threads.append(thread)
                    thread.start()

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def _ask(self, client: socket.socket, server: socket.socket, answered: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if answered.is_set():
                    answered.clear()
                    with self._lock:
                        self.round_trips += 1
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(
        self, client: socket.socket, server: socket.socket, answered: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                answered.set()
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def counting_proxy(url: str) -> Iterator[CountingProxy]:
    proxy = CountingProxy(url)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(30)
        assert not thread.is_alive()
