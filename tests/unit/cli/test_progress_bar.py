"""What a person at a terminal sees of a job, and what a log file gets instead."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from cli.terminal import console, progress_bar


def event(code: str, level: str = "INFO", message: str = "", **payload: Any) -> dict[str, Any]:
    return {"code": code, "level": level, "message": message, "payload": payload or None}


def sampling(progress: float, item_index: int, count: int = 3) -> dict[str, Any]:
    return event(
        "progress", progress=progress, stage="sampling", item_index=item_index, count=count
    )


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    return _console(monkeypatch, terminal=True)


def _console(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    text = io.StringIO()
    made = Console(file=text, force_terminal=terminal, width=100, color_system=None)
    for module in (console, progress_bar):
        monkeypatch.setattr(module, "err", made)
    return text


def bar(shown: str) -> str:
    """The bar as it stands at the end of what was written to a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).rsplit("\r", 1)[-1].strip()


def test_the_bar_says_stage_percent_item_and_time_left(terminal: io.StringIO) -> None:
    events = [event("job.created"), event("step.start"), sampling(0.25, 0), sampling(0.5, 1)]
    assert list(progress_bar.show_progress(events)) == events
    last = bar(terminal.getvalue())
    assert re.match(r"sampling ━+.* 50% item 2 of 3 \d\d:\d\d$", last), last


def test_a_job_of_one_picture_has_no_item_to_name(terminal: io.StringIO) -> None:
    list(progress_bar.show_progress([sampling(0.5, 0, count=1)]))
    assert "item" not in bar(terminal.getvalue())


def test_the_bar_ends_as_done_and_full(terminal: io.StringIO) -> None:
    end = event("progress", progress=1.0, stage=None, item_index=None, count=3)
    finish = event("job.finish", status="succeeded")
    list(progress_bar.show_progress([sampling(0.5, 1), finish, end]))
    last = bar(terminal.getvalue())
    assert last.startswith("done ━")
    assert "100%" in last


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_the_bar_of_a_job_that_ended_otherwise_says_so_where_it_stands(
    terminal: io.StringIO, status: str
) -> None:
    end = event("progress", progress=0.5, stage=None, item_index=None, count=3)
    list(progress_bar.show_progress([sampling(0.5, 1), event("job.finish", status=status), end]))
    last = bar(terminal.getvalue())
    assert last.startswith(f"{status} ━")
    assert "50%" in last


@pytest.mark.parametrize("level", ["WARNING", "ERROR"])
def test_what_goes_wrong_is_a_line_above_the_bar(terminal: io.StringIO, level: str) -> None:
    retry = event("retry", level, "tried again in 2 s")
    list(progress_bar.show_progress([retry, sampling(0.5, 1)]))
    assert "tried again in 2 s" in terminal.getvalue()
    assert bar(terminal.getvalue()).startswith("sampling")


def test_without_a_terminal_each_stage_is_a_line_and_nothing_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = _console(monkeypatch, terminal=False)
    load = event("progress", progress=0.05, stage="load", count=3)
    signal = event("signal.sent", "WARNING", "SIGTERM to the runner")
    verdict = [event(code, "ERROR", "failed") for code in ("step.finish", "error", "job.finish")]
    events = [load, load, sampling(0.25, 0), sampling(0.5, 1), signal, *verdict]
    list(progress_bar.show_progress(events))
    assert text.getvalue().splitlines() == [
        "load 5%",
        "sampling 25% item 1 of 3",
        "SIGTERM to the runner",  # and the verdict is the command's last word, not four of them
    ]


def queue(position: int) -> dict[str, Any]:
    span = {"low": 12, "high": 40}
    return event("queue", position=position, exact=True, starts_in_s=span)


def test_the_bar_says_the_place_of_a_job_that_waits(terminal: io.StringIO) -> None:
    list(progress_bar.show_progress([event("job.created"), queue(3)]))
    assert "position 3, starts in 12 to 40 s" in bar(terminal.getvalue())
    list(progress_bar.show_progress([event("job.created"), queue(3), event("step.claimed")]))
    assert "position" not in bar(terminal.getvalue())


def test_a_log_file_gets_a_line_for_each_position(monkeypatch: pytest.MonkeyPatch) -> None:
    log = _console(monkeypatch, terminal=False)
    list(progress_bar.show_progress([queue(3), queue(3), queue(2)]))
    assert log.getvalue().splitlines() == [
        f"queue: position {position}, starts in 12 to 40 s" for position in (3, 2)
    ]
