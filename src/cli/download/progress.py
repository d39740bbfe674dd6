"""Show the progress of a download: a bar per file in a terminal, a line per file elsewhere."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cli.download.fetch import ProgressDisplay
from cli.download.transfer import OnBytes
from cli.terminal.console import err
from cli.terminal.output import print_note


class ProgressBars:
    """Each bar disappears when its file is complete: a model has more files than a window lines."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def begin(self, path: str, total_bytes: int | None) -> OnBytes:
        task = self.progress.add_task(path, total=total_bytes)

        def on_bytes(here: int) -> None:
            self.progress.update(task, completed=here, visible=here != total_bytes)

        return on_bytes


class ProgressLines:
    def __init__(self) -> None:
        self._lock = threading.Lock()

    def begin(self, path: str, total_bytes: int | None) -> OnBytes:
        size = "" if total_bytes is None else f" ({total_bytes / 1e6:.1f} MB)"
        with self._lock:
            print_note(f"fetching {path}{size}")
        return lambda here: None


@contextmanager
def progress_display() -> Iterator[ProgressDisplay]:
    if not err.is_terminal:
        yield ProgressLines()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        yield ProgressBars(progress)
