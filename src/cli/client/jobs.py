"""The steps of a job's life as the command line goes through them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from cli.client.http import Client
from cli.client.results import download, require_succeeded
from cli.client.sse import follow_events
from cli.errors import Refusal, Unreachable
from cli.terminal.output import Output, print_json, print_note
from cli.terminal.progress_bar import show_progress
from cli.terminal.tables import print_pairs

# Before each repetition of a create, unless `Retry-After` asks for more. An API that restarts is
# back after some seconds; who mistyped its address should not wait much longer than that.
_PAUSES_S = (0.5, 1.0, 2.0, 4.0)


def create(
    client: Client,
    prompt: str,
    *,
    model: str | None = None,
    key: str | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Create a generate job; what is None is left to the API's defaults."""
    body = {"type": "generate", "prompt": prompt}
    given = {"model_id": model, **fields}  # the API knows a model by id, name and name@version
    body |= {name: value for name, value in given.items() if value is not None}
    job: dict[str, Any] = _send(client, body, key or str(uuid4()))["job"]
    return job


def _send(client: Client, body: Mapping[str, Any], key: str) -> Any:
    """Send a create until it is answered, within bounds: its key makes sure that there is one job,
    however many of them got through."""
    for pause_s in _PAUSES_S:
        try:
            return client.post("/v1/jobs", body, key)
        except Unreachable as error:
            problem = error.message
        except Refusal as refusal:
            if refusal.code != "infra_unavailable":
                raise
            problem, pause_s = refusal.message, max(pause_s, refusal.retry_after_s)
        print_note(f"{problem.splitlines()[0]}; trying again in {pause_s:g} s")
        time.sleep(pause_s)
    return client.post("/v1/jobs", body, key)


def chain(
    scale: int | None, impl: str | None, model: str | None, strict: bool
) -> dict[str, Any] | None:
    """The request's `chain` for `--upscale` and what belongs to it; None without one."""
    given = {"scale": scale, "impl": impl, "model_id": model, "strict_scale": strict or None}
    upscale = {name: value for name, value in given.items() if value is not None}
    return {"upscale": upscale} if upscale else None


def follow(client: Client, job_id: str) -> dict[str, Any]:
    """Show progress until the job ends; the job as it is then, however it ended."""
    print_note(f"job {job_id}")
    try:
        for _ in show_progress(follow_events(client, job_id)):
            pass
    except KeyboardInterrupt:
        print_note(
            f"the job goes on: dreamforge job watch {job_id}, or: dreamforge job cancel {job_id}"
        )
        raise
    job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}")
    return job


def save_and_print(
    client: Client, job: dict[str, Any], name: str, folder: Path | None, output: Output
) -> list[Path]:
    """Save what an ended job has made, print it, then raise Failure unless it succeeded.

    In this order: whoever waited for a job that failed wants to have what is there of it.
    """
    paths = [] if folder is None else download(client, job["id"], name, folder)
    print_job(job, output, paths)
    require_succeeded(job)
    return paths


def _stopping(job: Mapping[str, Any]) -> bool:
    return bool(job.get("cancel_requested_at")) and not job.get("finished_at")


def print_job(job: dict[str, Any], output: Output, paths: list[Path]) -> None:
    """One job and the files that were saved of it."""
    if output is Output.JSON:
        print_json({**job, "files": [str(path) for path in paths]} if paths else job)
        return
    summary, error, steps = job.get("summary"), job.get("error"), job.get("steps", [])
    print_pairs(
        ("job", job["id"]),
        ("status", job["status"] + (", asked to stop" if _stopping(job) else "")),
        *((f"step {step['name']}", step["status"]) for step in steps if len(steps) > 1),
        ("created", job["created_at"]),
        ("pictures", f"{summary['completed']} of {summary['count']}" if summary else None),
        ("error", f"{error['message']} ({error['code']})" if error else None),
        *(("file", path) for path in paths),
    )
