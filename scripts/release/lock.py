"""Write `locks/`: the packages of `constraints.txt` with the hashes of their files.

uv resolves for Linux, macOS and Windows and for Python 3.11 to 3.13 at once, within the versions of
constraints.txt. `pip install --require-hashes --no-deps -r locks/NAME.txt` then takes these files
and no others. Run it with `make lock` after a change of pyproject.toml or constraints.txt.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "locks"

# One version of torch exists in many builds (CPU, CUDA 12.6 and 13.0, ROCm), each of other bytes,
# and which one is right depends on the host. So no lock but `torch.txt` names it or what only it
# brings.
BUILT_FOR_A_DEVICE = ("torch", "torchvision")
# A marker that holds nowhere: uv keeps such a package, and what only it needs, with this marker.
NOWHERE = "sys_platform == 'none'"
# What torch needs whatever it was built for. The other locks have it where they have no torch.
NEEDED_BY_TORCH = ("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy")


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One file of `locks/`: what it is made from, and whether it may name torch."""

    name: str
    project: tuple[str, ...] = ()  # options of uv that name parts of pyproject.toml
    packages: tuple[str, ...] = ()
    with_torch: bool = False


LOCK_FILES = (
    Lock(name="api", project=("--group", "api")),
    Lock(name="worker", project=("--group", "worker")),
    # All that `pip install dreamforge` brings, and all that `make setup` does.
    Lock(
        name="full",
        project=("pyproject.toml", "--extra", "gan", "--extra", "gguf"),
        packages=NEEDED_BY_TORCH,
    ),
    Lock(
        name="dev",
        project=("pyproject.toml", "--extra", "dev", "--extra", "gan", "--group", "build"),
        packages=NEEDED_BY_TORCH,
    ),
    Lock(name="build", project=("--group", "build")),
    Lock(name="release", project=("--group", "build", "--group", "release")),
    Lock(name="torch", packages=BUILT_FOR_A_DEVICE, with_torch=True),
)


def main() -> None:
    LOCKS.mkdir(exist_ok=True)
    for lock in LOCK_FILES:
        write(lock)
        sys.stdout.write(f"locks/{lock.name}.txt\n")


def write(lock: Lock) -> None:
    with tempfile.TemporaryDirectory() as folder:
        overrides, packages = Path(folder, "overrides.txt"), Path(folder, "packages.in")
        out = () if lock.with_torch else BUILT_FOR_A_DEVICE
        overrides.write_text("".join(f"{name}; {NOWHERE}\n" for name in out))
        packages.write_text("".join(f"{name}\n" for name in lock.packages))
        command = [
            sys.executable, "-m", "uv", "pip", "compile", *lock.project, str(packages),
            "--constraint", "constraints.txt", "--override", str(overrides),
            "--universal", "--python-version", "3.11", "--generate-hashes",
            "--no-header", "--no-annotate", "--quiet",
            "--output-file", str(LOCKS / f"{lock.name}.txt"),
        ]  # fmt: skip
        # An old file would decide versions: it is given up first.
        (LOCKS / f"{lock.name}.txt").unlink(missing_ok=True)
        subprocess.run(command, cwd=ROOT, check=True)
    _leave_out_what_is_for_nowhere(LOCKS / f"{lock.name}.txt")


def _leave_out_what_is_for_nowhere(path: Path) -> None:
    """A package is a line, and an indented one for each of its hashes."""
    kept, keep = list[str](), True
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.startswith(" "):
            keep = NOWHERE not in line
        if keep:
            kept.append(line)
    path.write_text("".join(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
