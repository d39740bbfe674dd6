"""Trees of Debian packages: the engine's, and those that stand in for base images."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.containers.engine import MIRROR, Broken

QUIET = ("-qq", "-o=Dpkg::Use-Pty=0", "-o=APT::Install-Recommends=0", "-o=Acquire::Retries=3")


def make(tree: Path, release: str, packages: Iterable[str]) -> None:
    """A minimal Debian with these packages; what is there from before is taken as it is."""
    if (tree / ".made").exists():
        return
    minimal = tree.parent / f"minimal-{release}"
    _minimal(minimal, release)
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["cp", "--archive", str(minimal), str(tree)], check=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    _run(["chroot", str(tree), "apt-get", "install", *QUIET, *packages], environment)
    for rest in (tree / "var/lib/apt/lists", tree / "var/cache/apt/archives"):
        shutil.rmtree(rest)
    (tree / "var/lib/apt/lists").mkdir()
    (tree / "var/cache/apt/archives/partial").mkdir(parents=True)
    # Authorities that this host trusts and Debian does not know, such as a proxy's.
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists() and (tree / "etc/ssl/certs").is_dir():
        shutil.copy(bundle, tree / "etc/ssl/certs/ca-certificates.crt")
    (tree / ".made").touch()


def _minimal(tree: Path, release: str) -> None:
    """What all trees of a release are copied from: unpacking it is most of the work."""
    if (tree / ".minimal").exists():
        return
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        program, environment = _debootstrap(Path(folder))
        _run([program, "--variant=minbase", release, str(tree), MIRROR], environment)
    # A package's script must start nothing: there is no init in here.
    policy = tree / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    # A tree that a power cut spoils is made again.
    (tree / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    (tree / ".minimal").touch()


def _debootstrap(folder: Path) -> tuple[str, dict[str, str]]:
    """The host's, or that of its package, unpacked and not installed."""
    if found := shutil.which("debootstrap"):
        return found, dict(os.environ)
    _run(["apt-get", "download", "-qq", "debootstrap"], dict(os.environ), cwd=folder)
    (package,) = folder.glob("debootstrap_*.deb")
    _run(["dpkg-deb", "--extract", str(package), str(folder)], dict(os.environ))
    scripts = {"DEBOOTSTRAP_DIR": str(folder / "usr/share/debootstrap")}
    return str(folder / "usr/sbin/debootstrap"), os.environ | scripts


def _run(command: list[str], environment: dict[str, str], cwd: Path | None = None) -> None:
    ran = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if ran.returncode != 0:
        raise Broken(f"{' '.join(command[:4])} …: {ran.stdout[-3000:]}")
