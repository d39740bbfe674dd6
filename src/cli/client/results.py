"""After the end of a job: its status as an exit code, its pictures as files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import JOB_FAILED, Failure

if TYPE_CHECKING:  # at run time httpx costs a tenth of a second
    from cli.client.http import Client

_SLUG_CHARACTERS = 60
_SLUG_BYTES = 100  # some encrypted disks take 143 for the whole name, seed and format included


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


def check_folder(folder: Path | None) -> None:
    """Raise Failure where pictures could not be saved to `folder`: before a job is paid for."""
    if folder is None:
        return
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise Failure(f"{folder}: pictures cannot be saved there, since {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Failure(
            f"{folder}: pictures cannot be saved there, since {there} is not ours to write"
        )


def download(client: Client, job_id: str, prompt: str, folder: Path) -> list[Path]:
    """Save each item of the job to `folder` as <prompt>-<seed>.<format>; returns the paths.

    Where another file has that name, the next one is taken (`-2`, `-3`): none is replaced, and the
    same file is not saved twice. Of a chain it is the picture of the last step that finished the
    item: the enlarged one, or the small one where enlarging it failed. The API lists all of them,
    in the order of the steps.
    """
    from dreamforge_client.files import draft_of, place

    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts")["artifacts"]
    paths: list[Path] = []
    for artifact in _last_of_items(artifacts):
        name = f"{slug(prompt)}-{_file_part(artifact['seed'])}.{_file_part(artifact['format'])}"
        with draft_of(name, folder) as draft:
            client.save(artifact["url"], draft)
            paths.append(place(draft, folder))
    return paths


def _last_of_items(artifacts: object) -> list[Mapping[str, Any]]:
    from dreamforge_client.shapes import last_of_items

    try:
        return last_of_items(artifacts)
    except ValueError as error:
        raise Failure(str(error)) from None


def _file_part(value: object) -> str:
    from dreamforge_client.shapes import file_part

    try:
        return file_part(value)
    except ValueError as error:
        raise Failure(str(error)) from None


def slug(prompt: str) -> str:
    """A prompt as part of a file name: its words, cut to a length that every disk takes."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:_SLUG_CHARACTERS]
    encoding = sys.getfilesystemencoding()
    encoded = words.encode(encoding, "ignore")[:_SLUG_BYTES]
    return encoded.decode(encoding, "ignore").strip("-_") or "picture"
