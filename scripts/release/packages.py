"""Wheel and source archive, and the software bills of materials of what the images install."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path


def build(source: Path, into: Path, epoch: int) -> list[Path]:
    """Build wheel and source archive of a source tree with the backend of this environment.

    Nothing is downloaded: the backend is the one of `locks/build.txt`. The same sources and the
    same epoch make the same bytes, wherever the tree lies and whenever its files were written.
    """
    into.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(into)],
        cwd=source,
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},
    )
    return sorted(into.iterdir())


def bill_of_materials(source: Path, wheel: Path, group: str, folder: Path) -> str:
    """The CycloneDX document of one image: its packages are installed and asked for their metadata.

    They are those of `locks/GROUP.txt`, by their hashes, and our wheel. What the base image brings
    is not among them: Python and Debian's packages, and torch, torchvision and CUDA of the
    worker's.
    """
    environment = folder / group
    venv.create(environment, with_pip=False)
    python = str(environment / "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    lock = str(source / f"locks/{group}.txt")
    subprocess.run([*pip, "--require-hashes", "--requirement", lock], check=True)
    subprocess.run([*pip, str(wheel)], check=True)
    ran = subprocess.run(
        [
            sys.executable, "-m", "cyclonedx_py", "environment", python,
            "--output-reproducible", "--output-format", "JSON", "--mc-type", "application",
            "--pyproject", str(source / "pyproject.toml"),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    return ran.stdout.replace(str(environment), f"/opt/dreamforge/{group}")
