"""Bytes on a socket, for requests that no HTTP client would send."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit


def enveloped(answer: bytes, *statuses: int) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in fields)}
    assert int(status.split()[1]) in statuses, answer
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    assert "location" not in headers
    envelope: dict[str, Any] = json.loads(body)
    assert envelope["correlation_id"] == headers["x-request-id"]
    return envelope


def talk(base: str, request: bytes) -> bytes:
    """Send these bytes; all that comes back until the API closes the connection."""
    with connection(base) as connected:
        connected.sendall(request)
        return rest(connected)


def rest(connected: socket.socket) -> bytes:
    """All that comes until the API closes the connection, which resets it where bytes of ours have
    arrived since it answered."""
    answer = b""
    with suppress(ConnectionResetError):
        while block := connected.recv(1 << 16):
            answer += block
    return answer


def connection(base: str) -> socket.socket:
    address = urlsplit(base)
    assert address.hostname is not None
    assert address.port is not None
    return socket.create_connection((address.hostname, address.port), timeout=20)
