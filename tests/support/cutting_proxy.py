"""A proxy that forwards bytes and then fails: it closes, resets, or goes silent."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from urllib.parse import urlsplit

# A silent connection ends when its client gives up, before the test does.
_PATIENCE_S = 30.0


class Fate(StrEnum):
    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"


class CuttingProxy:
    """It speaks TCP only, so it can cut anywhere, inside a head or inside an event.

    Connection n gets `fates[n]`: so many bytes of the answer, then that end. Later ones pass.
    """

    def __init__(self, api_base: str, fates: Sequence[tuple[Fate, int]]) -> None:
        address = urlsplit(api_base)
        assert address.hostname is not None and address.port is not None
        self._api = (address.hostname, address.port)
        self._fates = list(fates)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.met: list[Fate] = []  # the fate of each connection, in order
        self._threads: list[threading.Thread] = []

    def serve(self) -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = self._listener.accept()
                fate = self._fates.pop(0) if self._fates else None
                thread = threading.Thread(target=self._pass, args=(client, fate))
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        # `close` alone does not wake a thread that is in `accept`.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
            assert not thread.is_alive()

    def _pass(self, client: socket.socket, fate: tuple[Fate, int] | None) -> None:
        with client, socket.create_connection(self._api, timeout=_PATIENCE_S) as api:
            upwards = threading.Thread(target=_pump, args=(client, api))
            upwards.start()
            left = None if fate is None else fate[1]
            with suppress(OSError):  # either side may be gone
                while left != 0 and (data := api.recv(1 << 16 if left is None else left)):
                    client.sendall(data)
                    left = None if left is None else left - len(data)
            if fate is not None and left == 0:
                self.met.append(fate[0])
                self._end(client, fate[0])
            for side in (client, api):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            upwards.join(_PATIENCE_S)

    def _end(self, client: socket.socket, fate: Fate) -> None:
        if fate is Fate.RESET:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        elif fate is Fate.STALL:
            client.settimeout(_PATIENCE_S)
            with suppress(OSError):
                while client.recv(1 << 16):  # until the client gives up
                    pass


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(api_base: str, fates: Sequence[tuple[Fate, int]]) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(api_base, fates)
    thread = threading.Thread(target=proxy.serve)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()
