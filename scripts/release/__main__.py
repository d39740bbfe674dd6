"""`make release`: build what is published from the commit that is checked out, twice, and compare.

Into `dist/`: wheel, source archive, a CycloneDX document for each image, and SHA256SUMS. The images
are built where an engine is, and stay in it; their digests are in `dist/images.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from scripts.release import images, packages
from scripts.release.sources import ROOT, NotClean, committed_at, export, require_clean_tree


class NotReproducible(Exception):
    """Two builds of one commit differ."""


def main() -> None:
    options = argparse.ArgumentParser(prog="make release", description=__doc__.splitlines()[0])
    options.add_argument("--no-images", action="store_true", help="packages and documents alone")
    given = options.parse_args()
    try:
        require_clean_tree()
        release(ROOT / "dist", with_images=not given.no_images)
    except (NotClean, NotReproducible) as error:
        sys.exit(f"no release: {error}")
    except subprocess.CalledProcessError as error:
        # What it said is above.
        sys.exit(f"no release: `{' '.join(error.cmd)}` failed")


def release(into: Path, *, with_images: bool) -> None:
    epoch = committed_at()
    shutil.rmtree(into, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        export(source)
        made = packages_twice(source, into, Path(folder), epoch)
        (wheel,) = (path for path in made if path.suffix == ".whl")
        for group in images.IMAGES:
            document = packages.bill_of_materials(source, wheel, group, Path(folder))
            (into / f"{group}.cdx.json").write_text(document)
        if with_images:
            (into / "images.txt").write_text(built_images(source, epoch))
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(into.iterdir()))
    (into / "SHA256SUMS").write_text(sums)
    say(sums)


def packages_twice(source: Path, into: Path, folder: Path, epoch: int) -> list[Path]:
    """Build from two trees in different folders. Raises `NotReproducible` where a byte differs."""
    made = packages.build(source, into, epoch)
    again = folder / "again"
    export(again)
    for path in packages.build(again, folder / "second", epoch):
        if sha256(path) != sha256(into / path.name):
            raise NotReproducible(f"two builds of {path.name} differ")
    return made


def built_images(source: Path, epoch: int) -> str:
    if reason := images.missing_engine():
        say(f"no images: {reason}\n")
        return f"none were built: {reason}\n"
    version = tomllib.loads((source / "pyproject.toml").read_text())["project"]["version"]
    compared = images.sets_times()
    if not compared:
        say("the images are not compared: this engine has no containerd image store\n")
    lines = []
    for name in images.IMAGES:
        digests = {images.build(source, name, version, epoch)}
        if compared:
            digests.add(images.build(source, name, version, epoch, cached=False))
        if len(digests) > 1:
            raise NotReproducible(f"two builds of dreamforge-{name} differ: {digests}")
        lines.append(f"dreamforge-{name}:{version} {digests.pop()}\n")
    return "".join(lines)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def say(text: str) -> None:
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
