"""After the end of a job: its status as an exit code, its pictures as files."""

from __future__ import annotations

import filecmp
import re
import sys
import tempfile
from collections.abc import Mapping
from itertools import count
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


def download(client: Client, job_id: str, prompt: str, folder: Path) -> list[Path]:
    """Save each item of the job to `folder` as <prompt>-<seed>.<format>; returns the paths.

    Where another file has that name, the next one is taken (`-2`, `-3`): none is replaced, and the
    same file is not saved twice. Of a chain it is the picture of the last step that finished the
    item: the enlarged one, or the small one where enlarging it failed. The API lists all of them,
    in the order of the steps.
    """
    artifacts = client.get(f"/v1/jobs/{job_id}/artifacts")["artifacts"]
    last = {artifact["item_index"]: artifact for artifact in artifacts}
    paths: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for _, artifact in sorted(last.items()):
        name = f"{slug(prompt)}-{_file_part(artifact['seed'])}.{_file_part(artifact['format'])}"
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as work:
            client.save(artifact["url"], Path(work, name))
            paths.append(_place(Path(work, name), folder))
    return paths


def _file_part(value: object) -> str:
    from dreamforge_client.shapes import file_part

    try:
        return file_part(value)
    except ValueError as error:
        raise Failure(str(error)) from None


def _place(draft: Path, folder: Path) -> Path:
    """Move a complete file to `folder`, under its name or the next one that is free.

    Returns the file that has the bytes: one that was there already, if it is the same.
    """
    for number in count(1):
        path = folder / (draft.name if number == 1 else f"{draft.stem}-{number}{draft.suffix}")
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            if path.is_file() and filecmp.cmp(draft, path, shallow=False):
                break
        else:
            draft.replace(path)
            break
    return path


def slug(prompt: str) -> str:
    """A prompt as part of a file name: its words, cut to a length that every disk takes."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:_SLUG_CHARACTERS]
    encoding = sys.getfilesystemencoding()
    encoded = words.encode(encoding, "ignore")[:_SLUG_BYTES]
    return encoded.decode(encoding, "ignore").strip("-_") or "picture"
