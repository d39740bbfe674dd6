"""A log that nobody reads holds up nobody who writes it."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from shared.telemetry import log_writer
from shared.telemetry.log_writer import LogWriter

DEADLINE_S = 30.0
TEXT = "x" * 200

# Logs more than a pipe holds, from an event loop, and says when it has done so.
SCRIPT = f"""
import asyncio, logging
from shared.telemetry.log_format import configure_logging

configure_logging("INFO")

async def main():
    for number in range(2000):
        logging.getLogger("test").info("%d {TEXT}", number)
    print("logged", flush=True)

asyncio.run(main())
"""


class Pipe:
    """A pipe with a `LogWriter` at its one end; nobody reads the other until `read`."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self.writer = LogWriter(self.write_fd)
        self.filled_bytes = 0

    def fill(self) -> None:
        """Leave no room in it, so that no line is written before `read`."""
        os.set_blocking(self.write_fd, False)
        with suppress(BlockingIOError):
            while True:
                self.filled_bytes += os.write(self.write_fd, b"x")
        os.set_blocking(self.write_fd, True)

    def log(self, *words: object) -> None:
        for word in words:
            message = f"{word} {TEXT}"
            self.writer.handle(logging.LogRecord("t", logging.INFO, "", 0, message, (), None))

    def read(self) -> list[str]:
        """All lines, until none waits."""
        received = bytearray()

        def drain() -> None:
            while data := os.read(self.read_fd, 1 << 16):
                received.extend(data)

        reader = threading.Thread(target=drain)
        reader.start()
        with self.writer._changed:
            assert self.writer._changed.wait_for(lambda: not self.writer._lines, DEADLINE_S)
        os.close(self.write_fd)
        reader.join(DEADLINE_S)
        os.close(self.read_fd)
        return received[self.filled_bytes :].decode().splitlines()


def in_time(target: object, *args: object) -> None:
    """Run it in a thread, so that a writer that waits for ever fails the test and does not hang."""
    assert callable(target)
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "whoever logs waits for the reader"


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    yield Pipe()


def test_lines_wait_for_their_reader_and_come_in_order(pipe: Pipe) -> None:
    in_time(pipe.log, *range(2000))  # six times what a pipe holds
    assert [line.split()[0] for line in pipe.read()] == [str(number) for number in range(2000)]


def test_what_there_is_no_room_for_is_counted(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_WAITING_BYTES", 50_000)
    pipe.fill()
    in_time(pipe.log, *range(2000))
    *kept, last = pipe.read()
    missing = re.match(r"(\d+) lines of the log are missing", last)
    assert missing is not None
    assert len(kept) + int(missing[1]) == 2000
    assert [line.split()[0] for line in kept] == [str(number) for number in range(len(kept))]


def test_a_line_is_in_the_log_when_the_call_returns(pipe: Pipe) -> None:
    os.set_blocking(pipe.read_fd, False)  # nothing to read would be an error
    pipe.log(7)
    assert os.read(pipe.read_fd, 4096).decode() == f"7 {TEXT}\n"
    os.set_blocking(pipe.read_fd, True)
    pipe.read()


def test_a_line_that_is_larger_than_a_pipe_waits_for_its_reader(pipe: Pipe) -> None:
    large = "y" * 100_000
    in_time(pipe.log, large, 8)
    assert [line.split()[0] for line in pipe.read()] == [large, "8"]


def test_a_file_that_takes_nothing_costs_lines_and_no_more() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    writer = LogWriter(write_fd)
    for number in range(3):
        writer.handle(logging.LogRecord("t", logging.INFO, "", 0, str(number), (), None))
    writer.flush()
    assert (writer._lost, len(writer._lines)) == (3, 0)
    os.close(write_fd)


def test_an_event_loop_goes_on_although_nobody_reads_stderr() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        logged: list[bytes] = []
        in_time(lambda: logged.append(process.stdout.readline()))
        assert logged == [b"logged\n"]
        assert process.wait(DEADLINE_S) == 0  # nor does its end wait for a reader
    finally:
        process.kill()
        process.communicate()


def test_every_line_is_there_when_a_process_has_ended() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, timeout=DEADLINE_S, check=True
    )
    assert len(ended.stderr.splitlines()) == 2000


def test_a_process_without_stderr_runs_all_the_same() -> None:
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, SCRIPT]
    ended = subprocess.run(command, stdout=subprocess.PIPE, timeout=DEADLINE_S, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"logged\n")
