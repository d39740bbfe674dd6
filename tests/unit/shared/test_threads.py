"""Blocking calls in a thread, on a host that has none left."""

import os
import threading
from functools import partial
from pathlib import Path

import anyio
import pytest
from tests.support.silent_disk import DEADLINE_S, answer, answered_at_last

from shared.threads import OneAtATime, run_in_thread


def test_a_lack_of_threads_is_a_lack_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="no thread left"):
        anyio.run(run_in_thread, int)


def test_another_error_stays_what_it_is() -> None:
    def work() -> None:
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        anyio.run(run_in_thread, work)


def test_a_call_that_was_left_behind_is_not_joined_by_another(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    looks = []

    def look() -> str:
        looks.append(fifo)
        return fifo.read_text()  # waits for a writer, as for a disk that does not answer

    async def main() -> None:
        disk = OneAtATime()
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(disk.run, look, within_s=DEADLINE_S))
                while not looks:
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()  # left behind
            for _ in range(3):
                with pytest.raises(TimeoutError, match="no answer yet"):
                    await disk.run(look, within_s=DEADLINE_S)
            while disk._busy:
                answer(fifo)
                await anyio.sleep(0.01)
            assert await disk.run(lambda: "again", within_s=DEADLINE_S) == "again"
        assert len(looks) == 1

    with answered_at_last(fifo):
        anyio.run(main)


def test_two_who_ask_at_once_wait_for_each_other() -> None:
    async def main() -> None:
        disk, answers = OneAtATime(), list[int]()

        async def ask(number: int) -> None:
            answers.append(await disk.run(lambda: number, within_s=DEADLINE_S))

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(ask, number)
        assert sorted(answers) == list(range(8))

    anyio.run(main)
