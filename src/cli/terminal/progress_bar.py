"""A live progress bar fed by a job's events; plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cli.terminal.console import err
from cli.terminal.output import print_note
from cli.terminal.queue_text import queue_text

if TYPE_CHECKING:
    from cli.terminal.graphics import Graphics
    from cli.terminal.preview_area import PreviewArea

Event = dict[str, Any]
# The command itself prints how the job ended.
_ENDINGS = {"error", "step.finish", "job.finish"}
_PREVIEW = "preview"


def show_progress(events: Iterable[Event], graphics: Graphics | None = None) -> Iterator[Event]:
    """Yield the events, and show how far the job is: stage, item, percent, time left.

    With `graphics` the previews among them are shown above the bar.
    """
    if not err.is_terminal:
        yield from _as_lines(events)
        return
    with (
        _preview_area(graphics) as area,
        Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[item]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=err,
        ) as bar,
    ):
        task = bar.add_task("queue", total=1.0, item="")
        try:
            for event in _with_notes(events):
                _advance(bar, task, event)
                if area is not None and event["code"] == _PREVIEW:
                    area.show(event)
                yield event
        finally:
            if area is not None:
                area.clear()


@contextmanager
def _preview_area(graphics: Graphics | None) -> Iterator[PreviewArea | None]:
    if graphics is None:
        yield None
        return
    from cli.terminal.preview_area import PreviewArea

    with PreviewArea(err, graphics) as area:
        yield area


def _advance(bar: Progress, task: TaskID, event: Event) -> None:
    payload = event.get("payload") or {}
    if event["code"] == "queue":
        bar.update(task, description="queue", item=queue_text(payload))
    if event["code"] == "step.claimed":
        bar.update(task, item="")
    if event["code"] == "step.start":
        bar.update(task, description="load")
    if event["code"] == "job.finish":
        status = payload.get("status", "succeeded")
        bar.update(task, description="done" if status == "succeeded" else status)
    if event["code"] == "progress":
        bar.update(
            task,
            completed=payload.get("progress", 0.0),
            description=payload.get("stage"),  # None, after the end, leaves what is there
            item=_item(payload),
        )


def _as_lines(events: Iterable[Event]) -> Iterator[Event]:
    stage = position = None
    for event in _with_notes(events):
        payload = event.get("payload") or {}
        if event["code"] == "queue" and payload["position"] != position:
            position = payload["position"]
            print_note(f"queue: {queue_text(payload)}")
        if event["code"] == "progress" and payload.get("stage") != stage:
            stage = payload.get("stage")
            if stage:
                print_note(
                    " ".join([stage, f"{payload.get('progress', 0.0):.0%}", _item(payload)]).strip()
                )
        yield event


def _item(payload: dict[str, Any]) -> str:
    count, index = payload.get("count", 1), payload.get("item_index")
    return f"item {index + 1} of {count}" if index is not None and count > 1 else ""


def _with_notes(events: Iterable[Event]) -> Iterator[Event]:
    """The events, each after a line where it tells of a problem on the way."""
    for event in events:
        if event.get("level") in {"WARNING", "ERROR"} and event["code"] not in _ENDINGS:
            print_note(str(event.get("message", event["code"])))
        yield event
