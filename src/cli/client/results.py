"""After the end of a job: its status as an exit code, its pictures as files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import JOB_FAILED, Failure

if TYPE_CHECKING:  # at run time httpx costs a tenth of a second
    from cli.client.http import Client

_SLUG_CHARACTERS = 60


def require_succeeded(job: Mapping[str, Any]) -> None:
    """Raise Failure with the job's own reason unless it succeeded."""
    if job["status"] == "succeeded":
        return
    error = job.get("error") or {}
    raise Failure(
        f"job {job['id']} {job['status']}: {error.get('message', 'no reason given')}"
        + (f" ({error['code']})" if "code" in error else ""),
        hint=f"`dreamforge job logs {job['id']}` shows what happened",
        exit_code=JOB_FAILED,
    )


def download(client: Client, job_id: str, prompt: str, folder: Path) -> list[Path]:
    """Save each item of the job to `folder` as <prompt>-<seed>.<format>; returns the paths.

    Of a chain it is the picture of the last step that finished the item: the enlarged one, or the
    small one where enlarging it failed. The API lists all of them, in the order of the steps.
    """
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts")["artifacts"]
    last = {artifact["item_index"]: artifact for artifact in artifacts}
    paths: list[Path] = []
    for _, artifact in sorted(last.items()):
        path = folder / f"{slug(prompt)}-{artifact['seed']}.{artifact['format']}"
        client.save(artifact["url"], path)
        paths.append(path)
    return paths


def slug(prompt: str) -> str:
    """A prompt as part of a file name: its words, cut to a length that every disk takes."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return words[:_SLUG_CHARACTERS].rstrip("-_") or "picture"
