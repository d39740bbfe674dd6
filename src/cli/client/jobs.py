"""Create a job, follow it, save and print what it made."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.client.results import download, error_text, require_succeeded
from cli.terminal.output import Output, print_json, print_note
from cli.terminal.queue_text import queue_text
from cli.terminal.tables import print_pairs

if TYPE_CHECKING:  # at run time httpx costs a tenth of a second
    from cli.client.http import Client
    from cli.terminal.graphics import Graphics
    from dreamforge_client import answers

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def create(
    client: Client,
    prompt: str,
    *,
    model: str | None = None,
    key: str | None = None,
    **fields: Any,
) -> answers.Job:
    """Create a generate job; a field that is None is left to the API's defaults."""
    # The API knows a model by id, name and name@version.
    return client.create(prompt, key, {"model_id": model, **fields})


def input_id(client: Client, picture: str | None) -> str | None:
    """The id of the input that `picture` is: itself, or that of the file, which is sent for it."""
    if picture is None or (_ID.fullmatch(picture) and not Path(picture).exists()):
        return picture
    return client.upload(Path(picture))


def follow(client: Client, job_id: str, *, previews: bool = False) -> answers.Job:
    """Show progress until the job ends, and return the ended job.

    `previews`: show them too, if the terminal can.
    """
    from cli.terminal.progress_bar import show_progress

    print_note(f"job {job_id}")
    graphics = _graphics() if previews else None
    events = client.stream(job_id, previews=graphics is not None)
    try:
        for _ in show_progress(events, graphics):
            pass
    except KeyboardInterrupt:
        print_note(
            f"the job goes on: dreamforge job watch {job_id}, or: dreamforge job cancel {job_id}"
        )
        raise
    return client.job(job_id)


def _graphics() -> Graphics | None:
    from cli.terminal.console import err, out
    from cli.terminal.graphics import find_graphics

    return find_graphics(out, err, os.environ)


def save_and_print(
    client: Client, job: answers.Job, name: str, folder: Path | None, output: Output
) -> list[Path]:
    """Save what an ended job has made, print it, then raise Failure unless it succeeded.

    In this order, because a failed job may have finished some of its pictures.
    """
    paths = [] if folder is None else download(client, job["id"], name, folder)
    print_job(job, output, paths)
    require_succeeded(job)
    return paths


def print_job(job: answers.Job, output: Output, paths: list[Path]) -> None:
    """Print one job and the files that were saved of it."""
    if output is Output.JSON:
        print_json({**job, "files": [str(path) for path in paths]} if paths else job)
        return
    summary, error, steps = job.get("summary"), job.get("error"), job.get("steps", [])
    queue = job.get("queue")
    stopping = job.get("cancel_requested_at") and not job.get("finished_at")
    print_pairs(
        ("job", job["id"]),
        ("prompt", (job.get("request") or {}).get("prompt")),
        ("status", job["status"] + (", asked to stop" if stopping else "")),
        ("queue", queue_text(queue) if queue else None),
        *((f"step {step['name']}", step["status"]) for step in steps if len(steps) > 1),
        ("created", job.get("created_at")),
        *((f"tag {key}", value) for key, value in job.get("tags", {}).items()),
        ("pictures", f"{summary['completed']} of {summary['count']}" if summary else None),
        ("error", error_text(error) if error else None),
        *(("file", path) for path in paths),
    )
