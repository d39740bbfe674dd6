"""An address of its own before a server: of another family, or one that moves to another server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

from shared.addresses import joined, listening

_END_S = 30.0


class Relay:
    """It relays bytes. After `move`, new connections lead elsewhere, and old ones stay."""

    def __init__(self, host: str, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server((host, 0), family=listening(host, 0)[0])
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def move(self, target: tuple[str, int]) -> None:
        self._target = target

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(self._target, 5)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                self._sockets.append(server)
                for ends in ((client, server), (server, client)):
                    thread = threading.Thread(target=_pump, args=ends)
                    self._threads.append(thread)
                    thread.start()

    def close(self) -> None:
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(_END_S)
            assert not thread.is_alive()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def server_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def at(url: str, host: str, port: int) -> str:
    """The URL with another host and port."""
    parts = urlsplit(url)
    user, sign, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{sign}{joined(host, port)}"))


@contextmanager
def relay(url: str, host: str = "127.0.0.1") -> Iterator[tuple[str, Relay]]:
    """An address on `host` that leads to the server of `url`: the URL with it, and the relay."""
    running = Relay(host, server_of(url))
    thread = threading.Thread(target=running.serve)
    thread.start()
    try:
        yield at(url, host, running.port), running
    finally:
        running.close()
        thread.join(_END_S)
        assert not thread.is_alive()
