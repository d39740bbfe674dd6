"""The parent's end of the socket: frames out of bytes, fairly and to the last one."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import anyio
import pytest

from shared.protocol.frames import PREFIX, FrameError, encode
from supervisor.processes.channel import Channel, Truncated

HELLO = encode({"type": "hello"})


def with_channel(test: Callable[[Channel, socket.socket], Awaitable[None]]) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        with theirs, anyio.fail_after(20):
            try:
                await test(channel, theirs)
            finally:
                channel.close()

    anyio.run(main)


def test_frames_arrive_in_order_and_then_the_end() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        theirs.sendall(encode({"n": 1}, b"body") + encode({"n": 2}))
        theirs.close()
        first, second = await channel.receive(), await channel.receive()
        assert first is not None
        assert second is not None
        assert (first.header, first.body, second.header) == ({"n": 1}, b"body", {"n": 2})
        assert await channel.receive() is None

    with_channel(test)


def test_what_came_before_garbage_is_heard_first() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        theirs.sendall(HELLO + b"\xff" * 100)
        assert await channel.receive() is not None
        for _ in range(2):  # and from then on for ever
            with pytest.raises(FrameError):
                await channel.receive()

    with_channel(test)


def test_an_end_inside_a_frame_is_told_from_a_lie() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        theirs.sendall(HELLO + PREFIX.pack(10, 0) + b"{")
        theirs.close()
        assert await channel.receive() is not None
        with pytest.raises(Truncated):
            await channel.receive()

    with_channel(test)


def test_a_peer_that_never_stops_talking_lets_others_have_their_turn() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        theirs.setblocking(False)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count)
            for _ in range(200):
                theirs.send(HELLO * 5)
                for _ in range(5):
                    await channel.receive()
            tasks.cancel_scope.cancel()
        assert turns > 100

    with_channel(test)


def test_a_peer_that_does_not_read_holds_up_the_sender_alone() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        body = b"x" * (4 << 20)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.send, {"n": 1}, body)
            await anyio.wait_all_tasks_blocked()
            theirs.sendall(HELLO)
            assert await channel.receive() is not None
            tasks.cancel_scope.cancel()

    with_channel(test)


def test_a_small_frame_is_sent_at_once_or_not_at_all() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        assert channel.send_now({"n": 1})
        theirs.setblocking(False)
        assert theirs.recv(1 << 16) == encode({"n": 1})
        whole = encode({"n": 2}) * sum(1 for _ in iter(lambda: channel.send_now({"n": 2}), False))
        assert whole  # and then the pipe was full
        received = bytearray()
        while len(received) < len(whole):
            received += theirs.recv(1 << 16)
        assert received == whole

    with_channel(test)


def test_a_small_frame_does_not_get_into_a_large_one() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.send, {"n": 1}, b"x" * (4 << 20))
            await anyio.wait_all_tasks_blocked()
            theirs.setblocking(False)
            theirs.recv(1 << 20)  # there is room, but in the middle of a frame
            assert not channel.send_now({"n": 2})
            tasks.cancel_scope.cancel()

    with_channel(test)


def test_sending_to_nobody_is_an_error_and_receiving_from_nobody_the_end() -> None:
    async def test(channel: Channel, theirs: socket.socket) -> None:
        theirs.close()
        with pytest.raises(OSError):
            await channel.send({"n": 1})
        with pytest.raises(OSError):
            channel.send_now({"n": 1})
        assert await channel.receive() is None

    with_channel(test)
