"""Why an exchange failed, where the library that wraps the reason leaves its text behind."""

import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_network

import anyio
import pytest

from api.webhooks.transport import Message, NotDelivered, Transport
from dreamforge_client import AsyncClient, Client, Unreachable
from shared.reasons import reason


def test_the_first_text_in_a_chain_is_the_reason() -> None:
    wrapped = OSError(ValueError())
    wrapped.__cause__ = ValueError("no more bytes")
    outer = RuntimeError()
    outer.__cause__ = wrapped
    assert reason(outer) == "no more bytes"
    assert reason(RuntimeError("mine")) == "mine"
    late = TimeoutError()
    late.__context__ = BaseException("cancelled by scope 7f3a")
    assert reason(late) == "TimeoutError"


@pytest.fixture
def plain() -> Iterator[str]:
    """The address of a server that speaks no TLS and ends each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    if not connection.recv(10):
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        yield f"https://{address}"
        with socket.create_connection(server.getsockname()) as last:
            last.shutdown(socket.SHUT_WR)
            thread.join()


def test_a_receiver_without_tls_is_a_reason_that_an_operator_can_read(plain: str) -> None:
    async def send() -> None:
        transport = Transport([ip_network("127.0.0.0/8")])
        await transport.send(Message(url=plain, headers={}, body=b"{}"))

    with pytest.raises(NotDelivered, match=r"ConnectError: .+"):
        anyio.run(send)


def test_an_api_without_tls_is_a_reason_for_both_clients(plain: str) -> None:
    async def ask() -> None:
        async with AsyncClient(plain) as client:
            await client.job("x")

    with pytest.raises(Unreachable) as of_async:
        anyio.run(ask)
    with Client(plain) as client, pytest.raises(Unreachable) as of_sync:
        client.job("x")
    assert "ConnectError" not in of_async.value.why + of_sync.value.why
