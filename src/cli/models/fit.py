"""Refuse a model whose tensors do not fit its configuration.

The comparison builds the model, so it happens in a process of its own (`runner.fit_check`).
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cli.terminal.output import print_note
from shared.errors import ModelUnavailable
from shared.linux.child import keeps
from shared.models.verify import check_installed, read_descriptor

# Its CPU time is bounded too; this is for a disk that does not answer.
WITHIN_S = 600.0
_NEEDED = ("torch", "diffusers", "transformers", "accelerate")


def refuse_misfit(folder: Path) -> None:
    """Raises `ModelUnavailable` that names the first tensors that do not fit."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        print_note(f"tensors were not compared: this installation has no {', '.join(missing)}")
        return
    answer = _ask(folder)
    if why := answer.get("unchecked"):
        print_note(f"tensors were not compared with the configuration: {why}")
    elif found := answer.get("misfits"):
        raise ModelUnavailable(f"it does not fit its configuration: {'; '.join(found)}")


def refuse_described_misfit(folder: Path) -> None:
    """The same for a folder that describes itself, which is checked first: no pickle, no code."""
    descriptor = read_descriptor(folder)
    check_installed(folder, checkpoint_sha256=descriptor.checkpoint_sha256)
    if descriptor.layout != "network":
        refuse_misfit(folder)


def _ask(folder: Path) -> dict[str, Any]:
    try:
        done = subprocess.run(  # noqa: S603 - argv is ours
            [sys.executable, "-m", "runner.fit_check", str(folder.absolute())],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=WITHIN_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if keeps(name)}
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        raise ModelUnavailable(_unbuildable(f"not within {WITHIN_S:g} s")) from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:]
        raise ModelUnavailable(
            _unbuildable(f"exit code {done.returncode} {''.join(last)[:300]}")
        ) from None
    return dict(answer)


def _unbuildable(why: str) -> str:
    return f"the model that its configuration describes cannot be built: {why}"
