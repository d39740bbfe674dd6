"""Both images, where an engine is: the same commit makes the same image, whoever builds it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

IMAGES = ("api", "worker")


def missing_engine() -> str | None:
    """Why no image can be built here; None where one can."""
    try:
        ran = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
        buildx = subprocess.run(["docker", "buildx", "version"], capture_output=True, timeout=60)
    except FileNotFoundError:
        return "there is no `docker` here"
    if ran.returncode != 0:
        return ran.stderr.strip().splitlines()[-1]
    return None if buildx.returncode == 0 else "docker has no buildx"


def sets_times() -> bool:
    """Whether this engine can write the commit's time into layers, as the containerd store can."""
    ran = subprocess.run(
        ["docker", "info", "--format", "{{json .DriverStatus}}"], capture_output=True, text=True
    )
    return "io.containerd.snapshotter" in ran.stdout


def build(source: Path, name: str, version: str, epoch: int, *, cached: bool = True) -> str:
    """Build one image into the engine, and return the digest of its configuration.

    Times in the image are the commit's, where the engine can set them. Whether the digest is the
    same elsewhere depends on the base image, which is pinned by its tag: a tag can be moved.
    """
    with tempfile.TemporaryDirectory() as folder:
        about, archive = Path(folder, "about.json"), Path(folder, "image.tar")
        command = [
            "docker", "buildx", "build", "--file", f"deploy/{name}.Dockerfile",
            "--tag", f"dreamforge-{name}:{version}", "--metadata-file", str(about),
            "--build-arg", f"SOURCE_DATE_EPOCH={epoch}", "--provenance=false", "--quiet",
        ]  # fmt: skip
        if sets_times():
            # Through a file: the engine unpacks what is built into it, and BuildKit writes no times
            # into what it unpacks.
            command += ["--output", f"type=docker,dest={archive},rewrite-timestamp=true"]
        else:
            command += ["--output", "type=docker"]
        if not cached:
            command.append("--no-cache")
        subprocess.run([*command, "."], cwd=source, check=True, stdout=subprocess.DEVNULL)
        if archive.exists():
            load = ["docker", "image", "load", "--quiet", "--input", str(archive)]
            subprocess.run(load, check=True, stdout=subprocess.DEVNULL)
        found: str = json.loads(about.read_text())["containerimage.config.digest"]
    return found
