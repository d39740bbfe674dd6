"""The steps of a job's life as the command line goes through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli import environment
from cli.client import Client
from cli.console import as_json, say
from cli.options import Output
from cli.outcome import require_succeeded
from cli.stream import events
from cli.tables import pairs
from cli.watching import shown


def connect() -> Client:
    """The API of DF_API_BASE, or of the stack that runs here."""
    environ = environment.with_running_stack(environment.effective())
    return Client(environment.api_base(environ), environment.api_key(environ))


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
    body |= {name: value for name, value in fields.items() if value is not None}
    if model is not None:
        body["model_id"] = client.model_id(model)
    job: dict[str, Any] = client.post("/v1/jobs", body, key)["job"]
    return job


def chain(
    scale: int | None, impl: str | None, model: str | None, strict: bool
) -> dict[str, Any] | None:
    """The request's `chain` for `--upscale` and what belongs to it; None without one."""
    given = {"scale": scale, "impl": impl, "model_id": model, "strict_scale": strict or None}
    upscale = {name: value for name, value in given.items() if value is not None}
    return {"upscale": upscale} if upscale else None


def follow(client: Client, job_id: str) -> dict[str, Any]:
    """Show progress until the job ends; returns it when it succeeded, else raises Failure."""
    try:
        for _ in shown(events(client, job_id)):
            pass
    except KeyboardInterrupt:
        say(f"the job goes on: dreamforge job watch {job_id}, or: dreamforge job cancel {job_id}")
        raise
    return require_succeeded(client, job_id)


def print_job(job: dict[str, Any], output: Output, paths: list[Path]) -> None:
    """One job and the files that were saved of it."""
    if output is Output.JSON:
        as_json({**job, "files": [str(path) for path in paths]} if paths else job)
        return
    summary, error = job.get("summary"), job.get("error")
    pairs(
        ("job", job["id"]),
        ("status", job["status"]),
        ("created", job["created_at"]),
        ("pictures", f"{summary['completed']} of {summary['count']}" if summary else None),
        ("error", f"{error['message']} ({error['code']})" if error else None),
        *(("file", path) for path in paths),
    )
