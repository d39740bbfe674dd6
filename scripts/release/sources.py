"""The committed files of this repository, and when they were committed."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).parents[2]


class NotClean(Exception):
    """Files differ from the commit, so nobody could build the same again."""


def git(*words: str) -> str:
    ran = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


def require_clean_tree() -> None:
    """Raise `NotClean` if a file is changed, added or deleted beside the commit."""
    if changed := git("status", "--porcelain"):
        raise NotClean(f"commit or stash these first:\n{changed}")


def committed_at() -> int:
    """Seconds since 1970: `SOURCE_DATE_EPOCH` of everything that is built from this commit."""
    return int(git("log", "-1", "--format=%ct"))


def export(folder: Path) -> None:
    """Write the committed files into a folder. Ignored and new files are not among them."""
    made = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    with tarfile.open(fileobj=BytesIO(made.stdout)) as archive:
        archive.extractall(folder, filter="data")
