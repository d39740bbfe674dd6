"""What strangers wrote is shown on the terminal and never obeyed by it: one way, and it is safe."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from rich.progress import Progress, TextColumn

from cli.main import run
from cli.terminal import console
from cli.terminal.console import SafeConsole
from cli.terminal.output import Output, print_json, print_line, print_lines, print_note
from cli.terminal.progress_bar import show_progress
from cli.terminal.tables import print_list, print_pairs, print_record, print_table
from shared.printable import escape_controls

ROOT = Path(__file__).parents[3]
HOSTILE = {
    "a title": "\x1b]0;owned\x07",
    "a title that ends with ST": "\x1b]2;owned\x1b\\",
    "a clear screen": "\x1b[2J\x1b[H",
    "the clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "a link": "\x1b]8;;http://evil.example\x1b\\text\x1b]8;;\x1b\\",
    "eight-bit CSI": "\x9b2J",
    "eight-bit OSC": "\x9d0;owned\x9c",
    "eight-bit DCS": "\x90q\x9c",
    "a return": "safe\rnot safe",
    "backspaces": "rm\x08\x08ls",
    "a bell": "\x07",
    "other charsets": "\x0e\x0f",
    "delete": "\x7f",
    "an override": "\u202egnp.exe",
    "embeddings": "\u202aa\u202bb\u202c",
    "isolates": "\u2066a\u2067b\u2068c\u2069",
    "marks": "\u200e\u200f\u061c",
    "separators": "a\u2028b\u2029c\x85d",
    "what has no width": "\ufeffa\u2060b\xad",
    "tags": "\U000e0001\U000e0041",
    "half a pair": "\ud83d",
    "markup of rich": "[link=http://evil.example]a[/link][red]b[/red]",
}
ALL = "".join(HOSTILE.values())
PLAIN = [
    "a red apple",
    "e\u0301te\u0301",  # letters with accents of their own
    "\u82f9\u679c\u3000\u4e00\u4e2a",  # a wide space
    "\U0001f469\u200d\U0001f680",  # an emoji of three signs
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # a joiner within a word
    "10\u202f000",
]


def is_safe(text: str) -> bool:
    """No control and no mark of direction; line breaks are ours."""
    return escape_controls(text, keep="\n") == text


PRINTERS: dict[str, Callable[[str], Any]] = {
    "a note": print_note,
    "a line": print_line,
    "lines of a log": lambda text: print_lines([text]),
    "JSON": print_json,
    "a table": lambda text: print_table(("a", text), [(text, 1)]),
    "a list": lambda text: print_list({}, Output.TABLE, ("a",), [(text,)]),
    "pairs": lambda text: print_pairs(("a", text), ("b", {"c": text})),
    "a record": lambda text: print_record({"a": text, "b": [text]}, Output.TABLE),
}


@pytest.mark.parametrize("printer", PRINTERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_way_to_print_sends_a_control(
    printer: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    PRINTERS[printer](f"before {HOSTILE[name]} after")
    written = capsys.readouterr()
    shown = written.out + written.err
    assert "before" in shown
    assert "after" in shown
    assert is_safe(shown), repr(shown)


@pytest.mark.parametrize("text", PLAIN)
def test_text_of_any_script_is_shown_as_it_is(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_line(text)
    print_pairs(("prompt", text))
    assert capsys.readouterr().out.count(text) == 2


def test_a_value_of_several_lines_does_not_pass_for_more_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_pairs(("prompt", "x\nstatus  succeeded"), ("status", "failed"))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_message_of_several_lines_does_not_pass_for_more_lines_of_a_log(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_lines(["one\ntwo"])
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_the_live_bar_sends_no_control_of_a_stranger(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal it sends sequences of its own, so the comparison is with a harmless stage."""

    def drawn(stage: str) -> str:
        screen = SafeConsole(stderr=True)
        screen.file = io.StringIO()
        monkeypatch.setattr(SafeConsole, "is_terminal", True)
        with Progress(TextColumn("{task.description}", markup=False), console=screen) as bar:
            bar.add_task(f"before {stage} after", total=1.0)
        return screen.file.getvalue()

    own = drawn("x")
    foreign = drawn(HOSTILE[name])
    for sequence in ("\x1b]", "\x1b[2J", "\x9b", "\x9d", "\x90", "\u202e", "\u2066", "\x7f"):
        assert foreign.count(sequence) == own.count(sequence), repr(foreign)


def test_the_bar_itself_is_drawn_on_the_safe_console(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = SafeConsole(stderr=True)
    screen.file = io.StringIO()
    monkeypatch.setattr(SafeConsole, "is_terminal", True)
    monkeypatch.setattr("cli.terminal.progress_bar.err", screen)
    monkeypatch.setattr(console, "err", screen)
    events: list[dict[str, Any]] = [
        {"code": "progress", "level": "INFO", "payload": {"stage": ALL, "progress": 0.5}},
        {"code": "runner.log", "level": "WARNING", "message": ALL},
        {"code": "job.finish", "level": "INFO", "payload": {"status": ALL}},
    ]
    assert list(show_progress(events)) == events
    shown = screen.file.getvalue()
    assert "owned" in shown
    assert "evil.example" in shown
    assert not any(
        each in shown for each in ("\x1b]", "\x1b[2J", "\x9b", "\x9d", "\u202e", "\u2066")
    )


def test_a_terminal_that_lacks_a_sign_shows_its_escape(tmp_path: Path) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("parameters", "\u82f9\u679c")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png", pnginfo=texts)
    ended = subprocess.run(
        [sys.executable, "-m", "cli", "inspect", "picture.png"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "\\u82f9\\u679c\n")


@pytest.mark.parametrize("output", ["table", "json"])
def test_what_a_picture_says_about_itself_is_shown_as_text(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("parameters", "an apple\x1b]0;owned\x07\x9b2J\u202e\nSteps: 4")
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture, pnginfo=texts)
    assert run(["inspect", str(picture), "--output", output]) == 0
    shown = capsys.readouterr().out
    assert "an apple" in shown
    assert is_safe(shown)
    if output == "json":
        assert json.loads(shown)["parameters"].startswith("an apple\x1b]0;")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "{}"],
        ["inspect", __file__, "{}"],
        ["{}"],
        ["job", "{}"],
        ["job", "list", "--{}"],
        ["job", "list", "--limit", "{}"],
        ["job", "list", "--output", "{}"],
        ["model", "import", "{}"],
        ["generate", "x", "--{}=1"],
    ],
)
def test_a_command_line_that_is_wrong_is_shown_as_text(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell puts the names of a folder's files there."""
    named = HOSTILE["a title"] + HOSTILE["eight-bit CSI"] + HOSTILE["an override"]
    assert run([each.format(named) for each in arguments]) == 2
    written = capsys.readouterr()
    assert is_safe(written.out + written.err), repr(written.err)


# The only files that may write to a terminal by themselves: each escapes what it writes.
OWN_WRITERS = {
    "src/api/export_openapi.py",
    "src/api/server.py",
    "src/cli/terminal/console.py",
    "src/cli/terminal/output.py",
    "src/shared/settings.py",
    "src/shared/telemetry/log_format.py",
    "src/supervisor/lifecycle/diagram.py",
    "src/supervisor/worker.py",
}


def test_nothing_else_writes_to_a_terminal() -> None:
    """A runner's streams are pipes to its worker, which logs them as JSON."""
    writers = set()
    for path in (ROOT / "src").rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("src/runner/") or name == "src/shared/linux/child.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in {"stdout", "stderr"}:
                if isinstance(node.value, ast.Name) and node.value.id == "sys":
                    writers.add(name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called in {"Console", "SafeConsole", "echo", "secho", "print_exception"}:
                    writers.add(name)
    assert writers == OWN_WRITERS
