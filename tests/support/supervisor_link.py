"""The runner's end of the socket to its supervisor, without torch and our message classes."""

from __future__ import annotations

import hashlib
import os
import socket
from multiprocessing.connection import Connection
from typing import Any

from shared.linux.child import exit_now
from shared.protocol.frames import Frame, FrameDecoder, encode

Header = dict[str, Any]


class SupervisorLink:
    """The runner's end of the socket."""

    def __init__(self, connection: Connection) -> None:
        self.socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._decoder = FrameDecoder()
        self._frames: list[Frame] = []
        self.spec: Header = {}
        self.params: Header = {}
        self.body = b""  # of the last frame that was heard
        self.done: set[int] = set()

    def send(self, header: Header, body: bytes = b"") -> None:
        self.socket.sendall(encode(header, body))

    def raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> Header | None:
        while not self._frames:
            data = self.socket.recv(1 << 16)
            if not data:
                return None
            self._frames.extend(self._decoder.feed(data))
        frame = self._frames.pop(0)
        self.body = frame.body
        return frame.header

    def ready(self) -> None:
        self.send({"type": "ready", "interface": 7, "pid": os.getpid(), "versions": {}})

    def until_go(self) -> None:
        """Wait for GO; leave when the worker does not want us any more."""
        while (header := self.receive()) is not None:
            if header["type"] == "go":
                self.spec = header["spec"]
                self.params = self.spec["params"]
                self.done = set(self.spec["done_items"])
                return
            if header["type"] == "cancel":
                break
        exit_now(0)

    def progress(self, item: int = 0, step: int = 1, steps: int = 4) -> None:
        self.send(
            {"type": "progress", "stage": "sampling", "item_index": item, "step": step}
            | {"steps": steps}
        )

    def artifact(self, item: int, size: int = 2000, **changes: Any) -> None:
        body = hashlib.shake_128(f"item {item}".encode()).digest(size)
        header = {
            "type": "artifact",
            "item_index": item,
            "format": "png",
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        if self.spec["type"] == "generate":
            header |= {name: self.params[name] for name in ("width", "height")}
            header["seed"] = self.params["seed"] + item
        self.send(header | changes, body)

    def result(self) -> None:
        self.send({"type": "result", "items": self.params["count"], "allocator": {}})

    def failure(self, reason: str, **details: Any) -> None:
        self.send({"type": "failure", "reason": reason, "message": reason, "details": details})
