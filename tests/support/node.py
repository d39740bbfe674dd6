"""Programs in JavaScript that tests run: their packages, in the versions of the lock, and Node.

The packages are installed once, into a folder of the user's cache that is named like the lock's
hash. Where there is no Node, or npm cannot get them, a test is skipped and says why.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parent / "javascript"
LEAST_NODE = 18
INSTALL_S = 90.0
RUN_S = 240.0


def run_node(program: str, given: Any) -> Any:
    """What a program of `PROGRAMS` writes, after it has read `given`; both are JSON."""
    packages = _packages()
    if isinstance(packages, str):
        pytest.skip(packages)
    try:
        done = subprocess.run(
            ["node", str(PROGRAMS / program)],
            input=json.dumps(given),
            env=os.environ | {"NODE_PATH": str(packages / "node_modules")},
            capture_output=True,
            encoding="utf-8",
            timeout=RUN_S,
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{program} has not ended after {RUN_S:g} s: {late.stderr!r}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@functools.cache
def _packages() -> Path | str:
    """The folder of the installed packages, or why there is none."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.lstrip("v").partition(".")[0]) < LEAST_NODE:
        return f"Node {version.stdout.strip()} is older than {LEAST_NODE}"
    lock = (PROGRAMS / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamforge-tests"
    folder = cache / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as draft:
        if (why := _install(Path(draft))) is not None:
            return why
        try:
            os.rename(Path(draft) / "packages", folder)
        except OSError:  # another process was faster
            if not folder.is_dir():
                raise
    return folder


def _install(draft: Path) -> str | None:
    """Install into `draft`/packages; why it failed, or None."""
    packages = draft / "packages"
    packages.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PROGRAMS / name, packages)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"]
    try:
        done = subprocess.run(
            ["npm", "ci", *options], cwd=packages, capture_output=True, text=True, timeout=INSTALL_S
        )
    except subprocess.TimeoutExpired:
        return f"npm did not get the packages within {INSTALL_S:g} s"
    return None if done.returncode == 0 else f"npm cannot get the packages: {done.stderr[-300:]}"
