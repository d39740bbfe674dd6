"""A disk that is full, and a umask that allows all: files are named, and nobody else may write."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from cli.doctor import stack
from cli.doctor.finding import Level
from cli.download import fetch as fetch_module
from cli.download.source import RemoteFile
from cli.download.transfer import Part, Transfer
from cli.files import copy_files, describe_error, disk_of, named
from cli.processes import child as child_module
from cli.processes.child import rotate, spawn
from cli.processes.part import Command
from cli.processes.process_manager import ProcessManager
from cli.state_dir import StateDir

ROOT = Path(__file__).parents[3]
FULL = Path("/dev/full")  # the kernel's own full disk


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_write_to_a_full_disk_names_file_and_disk() -> None:
    with pytest.raises(OSError) as found, named(FULL), FULL.open("w", encoding="utf-8") as file:
        file.write("x")
    assert found.value.errno == errno.ENOSPC
    line = describe_error(found.value)
    assert line.startswith(f"/dev/full: {os.strerror(errno.ENOSPC)}; the disk at {disk_of(FULL)}")
    assert "Errno" not in line


def test_an_error_that_has_its_file_keeps_it(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "file"
    with pytest.raises(OSError) as found, named(tmp_path):
        missing.read_text(encoding="utf-8")
    assert describe_error(found.value) == f"{missing}: No such file or directory"


def test_a_copy_to_a_full_disk_names_the_disk_that_is_full(tmp_path: Path) -> None:
    """The kernel's error names the file that was read first."""
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "from" / "a.json").write_text("{}", encoding="utf-8")
    (tmp_path / "to" / "a.json").symlink_to(FULL)
    with pytest.raises(OSError) as found:
        copy_files(tmp_path / "from", tmp_path / "to", ["a.json"])
    place = tmp_path / "to" / "a.json"
    assert describe_error(found.value).startswith(f"{place}: {os.strerror(errno.ENOSPC)}; the disk")


def test_an_error_of_a_descriptors_number_is_described_too() -> None:
    assert describe_error(OSError(errno.EIO, os.strerror(errno.EIO), 7)).endswith("error: 7")


@pytest.mark.parametrize("local", [True, False])
def test_a_download_to_a_full_disk_names_file_and_disk(local: bool, tmp_path: Path) -> None:
    source, part = tmp_path / "a.json", tmp_path / "a.part"
    source.write_text("{}", encoding="utf-8")
    part.symlink_to(FULL)
    url = source.as_uri() if local else "http://localhost/a.json"
    wanted = RemoteFile(path="a.json", url=url, size_bytes=2)
    transfer = Transfer(credential=None, remedy="")
    answers = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(b"{}")))
    transfer._client = httpx.Client(transport=answers)
    fetch = partial(fetch_module._copy, threading.Event()) if local else transfer.fetch
    with closing(transfer), pytest.raises(OSError) as found:
        fetch(Part(file=wanted, path=part, on_bytes=lambda _: None))
    assert describe_error(found.value).startswith(f"{part}: {os.strerror(errno.ENOSPC)}; the disk")


def test_a_note_that_cannot_be_written_ends_no_part_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    megabytes = itertools.count(1)  # of the disk: others write to it as well
    monkeypatch.setattr(
        "cli.files.shutil.disk_usage", lambda _: SimpleNamespace(free=next(megabytes) * 1_000_000)
    )
    home, said = StateDir(tmp_path / "home"), list[str]()
    with home.lock():
        manager = ProcessManager(home, said.append)
        (home.path / "children.json.new").symlink_to(FULL)
        manager.stop()
        manager.stop()
    (line,) = said
    assert "children.json.new: No space left on device; the disk at" in line


def test_a_part_that_cannot_be_started_again_counts_as_dead_and_is_tried_again(
    tmp_path: Path,
) -> None:
    home, said = StateDir(tmp_path / "home"), list[str]()
    with home.lock():
        manager = ProcessManager(home, said.append)
        part = Sleeper(tmp_path)
        manager.start([part])
        try:
            manager.parts["sleeper"].child.kill()
            part.disk_is_full = True
            ticking(manager, lambda: len(said) == 2)
            assert "conf: No space left on device" in said[1]
            part.disk_is_full = False
            ticking(manager, lambda: any("is back" in line for line in said))
        finally:
            manager.stop()


class Sleeper:
    """A part of the stack that writes a file before each start."""

    name, title = "sleeper", "Sleeper"
    stop_signal, stop_grace_s, ready_timeout_s = signal.SIGKILL, 1.0, 20.0
    disk_is_full = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self, helper: object) -> None:
        if self.disk_is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / "conf"))

    def command(self) -> Command:
        return Command(argv=("/bin/sleep", "100"), environ={}, cwd=self._folder)

    def not_ready(self) -> str | None:
        return None

    def address(self) -> str:
        return "nowhere"

    def environment(self) -> dict[str, str]:
        return {}


def ticking(manager: ProcessManager, condition: Callable[[], bool]) -> None:
    def ticked() -> bool:
        manager.tick()
        return condition()

    until(ticked)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_log_is_bounded_while_its_writer_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "_LOG_LIMIT_BYTES", 10_000)
    log, old = tmp_path / "part.log", tmp_path / "part.log.1"
    chatty = Command(argv=("/usr/bin/yes", "a line"), environ={}, cwd=tmp_path)
    running = spawn(chatty, log)
    try:
        for _ in range(3):
            until(lambda: log.stat().st_size > 10_000)
            rotate(log)  # ends, although the writer is faster
            assert old.stat().st_size == 10_000
        until(lambda: log.stat().st_size > 0)  # it writes on, at the new end
        assert set(old.read_bytes().split(b"\n")[1:-1]) == {b"a line"}
        with log.open("rb") as file:
            assert b"\0" not in file.read(1000)  # no hole where the old lines were
    finally:
        running.kill()


def test_a_log_is_emptied_where_its_old_part_finds_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "_LOG_LIMIT_BYTES", 10)
    log = tmp_path / "part.log"
    log.write_text("more than ten bytes")
    (tmp_path / "part.log.1").symlink_to(FULL)
    with pytest.raises(OSError) as found:
        rotate(log)
    assert "part.log.1: No space left on device" in describe_error(found.value)
    assert log.stat().st_size == 0


def test_what_the_stack_makes_is_closed_to_others_whatever_the_umask(
    tmp_path: Path, open_umask: None
) -> None:
    home = StateDir(tmp_path / "home")
    with home.lock():
        home.credential("store")
        spawn(Command(argv=("/bin/true",), environ={}, cwd=tmp_path), home.log("part")).kill()
    assert mode(home.path) == 0o755
    assert mode(home.log("part").parent) == 0o700
    assert mode(home.log("part")) == 0o600
    old = home.log("old")
    old.touch(0o666)
    spawn(Command(argv=("/bin/true",), environ={}, cwd=tmp_path), old).kill()
    (home.path / "state.json.new").touch(0o666)  # of a command that was killed
    home.write("state.json", {})
    assert (mode(old), mode(home.path / "state.json")) == (0o600, 0o600)
    assert mode(home.path / "credentials.json") == 0o600
    assert mode(home.path / "lock") == 0o644


@pytest.mark.parametrize(("given", "left"), [(0o000, 0o022), (0o077, 0o077), (0o002, 0o022)])
def test_the_command_line_lets_nobody_else_write_what_it_makes(
    given: int, left: int, tmp_path: Path
) -> None:
    code = (
        f"import os, sys; os.umask({given}); sys.argv = ['dreamforge', '--version']\n"
        "from cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print(os.umask(0))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert int(ran.stdout.splitlines()[-1]) == left


def test_doctor_says_how_much_room_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = []
    for free_bytes in (10**6, 10**9, 10**12):
        usage = type("Usage", (), {"free": free_bytes})
        monkeypatch.setattr("shutil.disk_usage", lambda place, usage=usage: usage)
        levels.append(stack.disk(tmp_path / "not" / "yet").level)
    assert levels == [Level.WRONG, Level.NOTE, Level.OK]
