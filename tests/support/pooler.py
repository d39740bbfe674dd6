"""A pooler before PostgreSQL, as small as a test needs: it refuses what PgBouncer refuses, and
gives its clients sessions, or by transaction one session to all.

A client's start and sign-in are relayed to a server connection of its own. By session that
connection stays the client's. By transaction everything later goes to one connection that all
share, each client for as long as the server says that a transaction is open.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_ENCRYPTION = {80877103, 80877104}  # SSL and GSS: asked for before the start, answered with N
_ALLOWED = {"user", "database", "application_name", "client_encoding", "datestyle", "timezone"}


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = link.recv(count - len(data))
        if not block:
            raise ConnectionError("closed")
        data += block
    return data


def _message(link: socket.socket) -> bytes:
    head = _exactly(link, 5)
    return head + _exactly(link, struct.unpack("!I", head[1:])[0] - 4)


class Pooler:
    def __init__(self, host: str, port: int, *, by_transaction: bool) -> None:
        self._server = (host, port)
        self._by_transaction = by_transaction
        self._servers: list[socket.socket] = []
        self._turn = threading.Lock()
        self.refused: list[str] = []

    def serve(self, client: socket.socket) -> None:
        with client, suppress(ConnectionError, OSError):
            start = self._start(client)
            names = start[8:].split(b"\0")[0::2]
            odd = {name.decode() for name in names if name} - _ALLOWED
            if odd:
                self.refused += sorted(odd)
                text = f"unsupported startup parameter: {sorted(odd)[0]}".encode()
                body = b"SFATAL\0C08P01\0M" + text + b"\0\0"
                client.sendall(b"E" + struct.pack("!I", len(body) + 4) + body)
                return
            own = socket.create_connection(self._server)
            self._servers.append(own)
            self._sign_in(client, own, start)
            if self._by_transaction:
                self._relay_by_transaction(client, self._servers[0])
            else:
                self._relay(client, own)

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def _start(self, client: socket.socket) -> bytes:
        while True:
            head = _exactly(client, 8)
            length, code = struct.unpack("!II", head)
            if code not in _ENCRYPTION:
                return head + _exactly(client, length - 8)
            client.sendall(b"N")

    def _sign_in(self, client: socket.socket, server: socket.socket, start: bytes) -> None:
        server.sendall(start)
        while True:
            message = _message(server)
            client.sendall(message)
            if message[:1] == b"Z":
                return
            asks = message[:1] == b"R" and struct.unpack("!I", message[5:9])[0] in {3, 5, 10, 11}
            if asks:
                server.sendall(_message(client))

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        def back() -> None:
            with suppress(OSError):
                while block := server.recv(1 << 16):
                    client.sendall(block)

        threading.Thread(target=back, daemon=True).start()
        while block := client.recv(1 << 16):
            server.sendall(block)

    def _relay_by_transaction(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            first = _message(client)
            if first[:1] == b"X":
                return
            with self._turn:
                self._one_transaction(client, server, first)

    def _one_transaction(self, client: socket.socket, server: socket.socket, first: bytes) -> None:
        message, state = first, b"T"
        while True:
            while True:  # one request: until Sync, or a simple query
                server.sendall(message)
                if message[:1] in {b"S", b"Q"}:
                    break
                message = _message(client)
            while True:
                answer = _message(server)
                client.sendall(answer)
                if answer[:1] == b"Z":
                    state = answer[5:6]
                    break
            if state == b"I":
                return
            message = _message(client)


@contextmanager
def pooler(url: str, *, by_transaction: bool = False) -> Iterator[tuple[str, Pooler]]:
    """A pooler before the server at `url`: its address, and itself."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    running = Pooler(parts.hostname, parts.port or 5432, by_transaction=by_transaction)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    threading.Thread(target=running.serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        user = parts.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{listener.getsockname()[1]}"
        yield urlunsplit(parts._replace(netloc=netloc)), running
        listener.shutdown(socket.SHUT_RDWR)
        running.close()
