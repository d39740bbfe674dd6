"""The tiny model, built in a process of its own, so that the test's process stays without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cli.models.install import register


def build_tiny_model(folder: Path) -> Path:
    """Write the model to `folder`; pictures of it are noise."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, "-m", "tests.support.tiny_pipeline", str(folder)]
    subprocess.run(command, check=True, env=env)
    return folder


def register_tiny_model(models: Path, database_url: str) -> None:
    """Build the model below the folder `models`, and write its row."""
    register(database_url, build_tiny_model(models / "sd/tiny@1"))
