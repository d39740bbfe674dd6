"""A client that costs little: it writes one request and reads its answer, on kept connections.

An HTTP library takes longer for a request than the server under test. This one knows just enough:
an answer has a `content-length` and begins with its status.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any


def request_bytes(path: str, body: Mapping[str, Any]) -> bytes:
    """A POST with a JSON body."""
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


async def rate(port: int, request: bytes, *, clients: int, requests: int) -> float:
    """Answers a second, of `requests` in all. Raises `RuntimeError` for any but 202."""
    left = iter(range(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(request)
            await _read_answer(reader)
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return requests / (time.perf_counter() - began)


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    _, _, rest = head.partition(b"content-length:")
    body = await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    if not head.startswith(b"http/1.1 202"):
        raise RuntimeError(f"{head.decode()}{body.decode()}")
