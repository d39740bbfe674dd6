"""Sockets of this process, found by the kernel's list of open files."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path


def accepted_from(client: socket.socket, timeout_s: float = 10.0) -> socket.socket:
    """A duplicate of the connection that a server in this process accepted from `client`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for path in Path("/proc/self/fd").iterdir():
            if (found := _duplicate(int(path.name))) is None:
                continue
            if _connects(found, client):
                return found
            found.close()
        time.sleep(0.01)
    raise AssertionError("no connection was accepted")


def _duplicate(fd: int) -> socket.socket | None:
    try:
        duplicate = os.dup(fd)
    except OSError:
        return None
    try:
        return socket.socket(fileno=duplicate)
    except OSError:  # another kind of file
        os.close(duplicate)
        return None


def _connects(sock: socket.socket, client: socket.socket) -> bool:
    try:
        ends = (sock.getpeername(), sock.getsockname())
    except OSError:
        return False
    return ends == (client.getsockname(), client.getpeername())


def can_bind(host: str) -> bool:
    """Whether this machine has the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
