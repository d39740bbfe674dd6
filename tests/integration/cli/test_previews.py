"""Previews on a real pseudo-terminal, from a process of the command line."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.support.loopback import serving
from tests.support.terminals import Kind, Terminal

ROOT = Path(__file__).parents[3]
JOB = "01890000-0000-7000-8000-000000000000"
COLORS = [(200, 0, 0), (0, 0, 200)]
# The session gets the terminal that is its input, as a shell's programs have it.
START = (
    "import os, runpy, sys\n"
    "os.close(os.open(os.ttyname(0), os.O_RDWR))\n"
    "from cli.terminal import query\n"
    "query.DEADLINE_S = float(os.environ['DEADLINE_S'])\n"
    "runpy.run_module('cli', run_name='__main__', alter_sys=True)"
)


class _Api(ThreadingHTTPServer):
    """A job that is watched to its end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.streams: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Api

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if "/progress/stream" in self.path:
            self._stream()
            return
        job = {"id": JOB, "status": "succeeded", "created_at": "2026-01-01T00:00:00Z"}
        self._send("application/json", json.dumps(job).encode())

    def _stream(self) -> None:
        if "Last-Event-ID" in self.headers:
            self.send_response(204)
            self.end_headers()
            return
        self.server.streams.append(self.path.partition("?")[2])
        end = {"code": "job.finish", "level": "INFO", "payload": {"status": "succeeded"}}
        messages = [f"event: preview\ndata: {json.dumps(_preview(each))}\n\n" for each in COLORS]
        messages.append(f"id: 1\ndata: {json.dumps(end | {'seq': 1})}\n\n")
        self._send("text/event-stream", "".join(messages).encode())

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)


def _preview(color: tuple[int, int, int]) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "JPEG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"item_index": 0, "image": f"data:image/jpeg;base64,{data}"}


@pytest.fixture
def api() -> Iterator[_Api]:
    with serving(_Api()) as server:
        yield server


def watch(api: _Api, kind: Kind, *options: str, **piped: Any) -> Terminal:
    """`dreamforge job watch` in a terminal of this kind, to its end."""
    ours, theirs = pty.openpty()
    environ = {
        **os.environ,
        "DF_API_BASE": f"http://127.0.0.1:{api.server_port}",
        "TERM": "xterm-256color",
        "DEADLINE_S": "0.2" if kind == "silent" else "60",  # it may be a busy machine
        "COLUMNS": "80",
        "LINES": "24",
        "PYTHONPATH": str(ROOT / "src"),
    }
    for name in ("TERM_PROGRAM", "TMUX"):
        environ.pop(name, None)
    streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs} | piped
    terminal = Terminal(kind)
    with subprocess.Popen(
        [sys.executable, "-c", START, "job", "watch", JOB, *options],
        env=environ, cwd=ROOT, start_new_session=True, **streams,
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            _serve(ours, terminal, process)
        finally:
            process.kill()
            os.close(ours)
    assert process.returncode == 0, terminal.text()
    return terminal


def _serve(ours: int, terminal: Terminal, process: subprocess.Popen[bytes]) -> None:
    """Be the terminal until the process has ended and all that it wrote was read."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        ended = process.poll() is not None
        if select.select([ours], [], [], 0.05)[0]:
            try:
                terminal.feed(os.read(ours, 65536))
            except OSError:  # the other side is closed
                process.wait(30)
                return
            answers, terminal.answers = terminal.answers, b""
            os.write(ours, answers)
        elif ended:
            return
    raise AssertionError(f"it did not end: {terminal.text()}")


@pytest.mark.parametrize("kind", ["kitty", "sixel"])
def test_a_terminal_that_shows_pictures_shows_previews(api: _Api, kind: Kind) -> None:
    terminal = watch(api, kind)
    seen = [each.image.convert("RGB").getpixel((20, 20)) for each in terminal.drawn]
    assert len(seen) == 2
    for shown, sent in zip(seen, COLORS, strict=True):
        assert isinstance(shown, tuple)
        assert max(abs(a - b) for a, b in zip(shown, sent, strict=True)) <= 8
    assert terminal.shown == []  # what stays is text
    assert terminal.text().splitlines()[0] == f"job {JOB}"
    assert "done" in terminal.text()
    assert api.streams == [""]


def test_a_terminal_that_answers_nothing_gets_none(api: _Api) -> None:
    terminal = watch(api, "silent")
    assert terminal.sequences == 0
    assert "done" in terminal.text()
    assert api.streams == ["previews=false"]  # and none are made


def test_no_picture_goes_where_none_is_wanted(api: _Api) -> None:
    assert watch(api, "kitty", "-o", "json").sequences == 0
    assert watch(api, "kitty", "--no-preview", stdout=subprocess.DEVNULL).sequences == 0
    assert api.streams == ["previews=false"] * 2
