"""The byte budget for images that wait for the store."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import anyio.lowlevel

from supervisor.execution.byte_budget import ByteBudget


def test_bytes_are_counted_while_they_are_held() -> None:
    async def test() -> None:
        byte_budget = ByteBudget(100)
        async with byte_budget.reserve(60), byte_budget.reserve(40):
            assert byte_budget.used_bytes == 100
            assert byte_budget.full
        assert byte_budget.used_bytes == 0
        assert not byte_budget.full

    anyio.run(test)


def test_what_does_not_fit_waits_until_it_does() -> None:
    async def test() -> None:
        byte_budget, order = ByteBudget(100), list[str]()

        async def hold() -> None:
            async with byte_budget.reserve(50):
                order.append("in")

        async with anyio.create_task_group() as tasks:
            async with byte_budget.reserve(60):
                tasks.start_soon(hold)
                await anyio.wait_all_tasks_blocked()
                order.append("still out")
        assert order == ["still out", "in"]

    anyio.run(test)


def test_it_is_full_while_somebody_waits_however_few_bytes_are_left() -> None:
    async def test() -> None:
        byte_budget = ByteBudget(100)

        async def wait() -> None:
            async with byte_budget.reserve(30):
                pass

        async with (
            anyio.create_task_group() as tasks,
            byte_budget.reserve(30),
            byte_budget.reserve(30),
        ):
            async with byte_budget.reserve(30):
                assert not byte_budget.full
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert byte_budget.used_bytes == 90
                assert byte_budget.full
            await anyio.wait_all_tasks_blocked()
            assert not byte_budget.full

    anyio.run(test)


def test_it_is_not_full_while_one_that_finds_room_comes_in() -> None:
    async def test() -> None:
        byte_budget, seen = ByteBudget(100), set[bool]()

        async def hold() -> None:
            async with byte_budget.reserve(30):
                inside.set()

        async with anyio.create_task_group() as tasks:
            inside = anyio.Event()
            tasks.start_soon(hold)
            while not inside.is_set():
                await anyio.lowlevel.checkpoint()
                seen.add(byte_budget.full)
        assert seen == {False}

    anyio.run(test)


def test_one_image_of_any_size_fits_into_an_empty_spool() -> None:
    async def test() -> None:
        byte_budget = ByteBudget(100)
        with anyio.fail_after(5):
            async with byte_budget.reserve(1000):
                assert byte_budget.full

    anyio.run(test)


def test_a_cancelled_holder_gives_its_bytes_back() -> None:
    async def test() -> None:
        byte_budget = ByteBudget(100)
        async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
            await stack.enter_async_context(byte_budget.reserve(100))

            async def wait() -> None:
                async with byte_budget.reserve(1):
                    raise AssertionError("there was no room")

            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert byte_budget.used_bytes == 0
        assert not byte_budget.full

    anyio.run(test)
