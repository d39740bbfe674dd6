"""What the kernel says of the connections that our servers accept."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import uvicorn
from starlette.applications import Starlette
from tests.support.sockets import accepted_from, can_bind

from api.server import bind
from supervisor import health

Serve = Callable[[str, int], Coroutine[Any, Any, None]]


async def _serve_as_api(host: str, port: int) -> None:
    with bind(host, port) as listener:
        server = uvicorn.Server(uvicorn.Config(Starlette(), log_config=None, lifespan="off"))
        try:
            await server.serve(sockets=[listener])
        finally:
            for each in server.servers:
                each.close()


async def _serve_as_worker(host: str, port: int) -> None:
    await health.serve(Starlette(), host, port)


@pytest.mark.parametrize("serve", [_serve_as_api, _serve_as_worker], ids=["api", "worker"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_on_a_kept_connection_waits_for_no_delayed_ack(host: str, serve: Serve) -> None:
    if not can_bind(host):
        pytest.skip(f"this machine has no {host}")

    async def main() -> int:
        with bind(host, 0) as free:
            port = free.getsockname()[1]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, host, port)
            option = await anyio.to_thread.run_sync(_no_delay, host, port)
            tasks.cancel_scope.cancel()
        return option

    assert anyio.run(main) == 1


def _no_delay(host: str, port: int) -> int:
    with _connect(host, port) as client, accepted_from(client) as accepted:
        # asyncio sets the option a moment after it has accepted: an answer comes later than both.
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(1)
        return accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def _connect(host: str, port: int) -> socket.socket:
    for _ in range(1000):
        try:
            return socket.create_connection((host, port), timeout=10)
        except ConnectionRefusedError:
            continue  # not listening yet
    raise AssertionError("the server does not listen")
