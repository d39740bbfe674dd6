"""After the end of a job: its status as an exit code, its pictures as files."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import JOB_FAILED, Failure
from cli.files import describe_error

if TYPE_CHECKING:  # at run time httpx costs a tenth of a second
    from cli.client.http import Client
    from dreamforge_client import answers

_SLUG_CHARACTERS = 60
_SLUG_BYTES = 100  # some encrypted disks take 143 for the whole name, seed and format included


def require_succeeded(job: answers.Job) -> None:
    """Raise Failure with the job's own reason unless it succeeded."""
    if job["status"] == "succeeded":
        return
    error = job.get("error")
    raise Failure(
        f"job {job['id']} {job['status']}: {error_text(error) if error else 'no reason given'}",
        hint=f"`dreamforge job logs {job['id']}` shows what happened",
        exit_code=JOB_FAILED,
    )


def error_text(error: answers.JobError) -> str:
    """Why a job ended, and the code that docs/errors.md has a section for."""
    code = error.get("code")
    return f"{error['message']} ({code})" if code else error["message"]


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
    from dreamforge_client.shapes import last_of_items

    paths: list[Path] = []
    for artifact in last_of_items(client.artifacts(job_id)["artifacts"]):
        name = f"{slug(prompt)}-{artifact['seed']}.{artifact['format']}"
        with _kept(job_id), draft_of(name, folder) as draft:
            client.save(artifact["url"], draft)
            paths.append(place(draft, folder))
    return paths


@contextmanager
def _kept(job_id: str) -> Iterator[None]:
    """Say where a picture still is that could not be written: it was paid for."""
    try:
        yield
    except OSError as error:
        raise Failure(
            describe_error(error),
            hint=f"the pictures are kept: `dreamforge job artifacts {job_id} --download FOLDER`",
            exit_code=JOB_FAILED,
        ) from error


def slug(prompt: str) -> str:
    """A prompt as part of a file name: its words, cut to a length that every disk takes."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:_SLUG_CHARACTERS]
    encoding = sys.getfilesystemencoding()
    encoded = words.encode(encoding, "ignore")[:_SLUG_BYTES]
    return encoded.decode(encoding, "ignore").strip("-_") or "picture"
