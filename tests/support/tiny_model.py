"""The tiny model, built in a process of its own, so that the test's process stays without torch."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from cli.models.install import register


@cache
def _built() -> Path:
    """Ten seconds of CPU, nearly all of them for imports: once for all tests of this process."""
    root = Path(tempfile.mkdtemp(prefix="dreamforge-tiny-"))
    atexit.register(shutil.rmtree, root)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "tests.support.tiny_pipeline", str(root / "tiny")]
    subprocess.run(command, check=True, env=env)
    return root / "tiny"


def build_tiny_model(folder: Path) -> Path:
    """Write the model to `folder`; pictures of it are noise."""
    shutil.copytree(_built(), folder)
    return folder


def register_tiny_model(models: Path, database_url: str) -> None:
    """Build the model below the folder `models`, and write its row."""
    register(database_url, build_tiny_model(models / "sd/tiny@1"))
