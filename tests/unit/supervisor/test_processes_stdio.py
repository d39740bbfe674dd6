"""What a child writes to its standard streams comes to the log, some of it at a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest
from tests.support.harness import until

from supervisor.processes import stdio as output_module
from supervisor.processes.stdio import BURST_BYTES, OutputReader


def run(test: Callable[[OutputReader], Awaitable[None]]) -> None:
    async def main() -> None:
        output = OutputReader()
        try:
            await test(output)
        finally:
            output.close()

    anyio.run(main)


def test_what_is_written_is_logged_with_whom_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    async def test(output: OutputReader) -> None:
        output.fields = {"job_id": "j"}
        os.write(output.write_end.fileno(), b"Traceback:\n  \xff!\n")
        await until(lambda: bool(caplog.records), "a line")

    run(test)
    (record,) = caplog.records
    assert record.getMessage() == "a child wrote: Traceback:\n  \ufffd!"
    assert record.__dict__["job_id"] == "j"


def test_the_last_words_are_logged_when_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def test(output: OutputReader) -> None:
        os.write(output.write_end.fileno(), b"the end")
        output.write_end.close()

    run(test)
    assert [record.getMessage() for record in caplog.records] == ["a child wrote: the end"]


def test_an_end_that_everybody_closed_keeps_no_loop_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    honest = os.read

    def read(descriptor: int, size: int) -> bytes:
        reads.append(descriptor)
        return honest(descriptor, size)

    async def test(output: OutputReader) -> None:
        monkeypatch.setattr(os, "read", read)
        output.write_end.close()
        await until(lambda: bool(reads), "the end is seen")
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert len([each for each in reads if each == output.read_fd]) == 1

    run(test)


def test_who_writes_without_end_is_read_with_pauses(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "PAUSE_S", 0.2)
    caplog.set_level(logging.WARNING)

    async def test(output: OutputReader) -> None:
        descriptor = output.write_end.fileno()
        os.set_blocking(descriptor, False)

        def fill() -> None:
            try:
                while os.write(descriptor, b"x" * 4096):
                    pass
            except BlockingIOError:
                return

        fill()
        await until(lambda: bool(caplog.records), "a burst")
        fill()
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        assert _said(caplog) == BURST_BYTES
        await until(lambda: _said(caplog) == 2 * BURST_BYTES, "after the pause it goes on")

    run(test)


def _said(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.getMessage().count("x") for record in caplog.records)
