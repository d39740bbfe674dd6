"""What `doctor` looks at first: the machine. A check never raises: a failed look is a finding."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from cli.errors import StackError
from cli.stack import broker, postgres, store

OLDEST, NEWEST = (3, 11), (3, 13)
# Our packages are top-level names, and a distribution of the same name may overwrite them.
OUR_PACKAGES = ("api", "supervisor", "runner", "shared", "cli")
_NVIDIA_SMI_TIMEOUT_S = 20.0


class Level(Enum):
    OK = "ok"
    NOTE = "note"
    WRONG = "WRONG"


@dataclass(frozen=True, kw_only=True)
class Finding:
    level: Level
    subject: str
    text: str
    advice: str = ""


def examine(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The machine itself: interpreter, platform, packages, GPU."""
    yield python(sys.version_info[:2])
    yield machine(platform.system(), platform.machine())
    yield from packages()
    yield from embedded(environ)
    yield gpu(environ)
    yield Finding(level=Level.OK, subject="Docker", text="not needed")


def python(found: tuple[int, int]) -> Finding:
    text = ".".join(map(str, found))
    if OLDEST <= found <= NEWEST:
        return Finding(level=Level.OK, subject="Python", text=text)
    return Finding(
        level=Level.WRONG,
        subject="Python",
        text=f"{text} is not supported",
        advice="use Python 3.11, 3.12 or 3.13",
    )


def machine(system: str, architecture: str) -> Finding:
    text = f"{system} on {architecture}"
    if system == "Linux":
        return Finding(level=Level.OK, subject="Platform", text=text)
    return Finding(
        level=Level.WRONG,
        subject="Platform",
        text=f"{text}: the worker needs Linux (process groups, pidfd, /proc)",
        advice="run the worker on a Linux host; the command line works from here (DF_API_BASE)",
    )


def packages() -> Iterator[Finding]:
    """Something else under one of our names."""
    ours = Path(__file__).parents[2]
    conflicts = [name for name in OUR_PACKAGES if _home_of(name) != ours]
    conflicts += [name for name in OUR_PACKAGES if name not in conflicts and _installed(name)]
    for name in conflicts:
        yield Finding(
            level=Level.WRONG,
            subject="Packages",
            text=f"another package named {name!r} is installed in this environment",
            advice=f"pip uninstall {name}, or give dreamforge a virtual environment of its own",
        )
    if not conflicts:
        yield Finding(level=Level.OK, subject="Packages", text="no package has one of our names")


def embedded(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The packages that bring the parts which no setting names; an image has none of them."""
    for setting, binaries in (
        ("DF_DATABASE_URL", postgres.binaries),
        ("DF_REDIS_URL", broker.binary),
        ("DF_S3_ENDPOINT", store.binary),
    ):
        if environ.get(setting):
            continue
        try:
            path = binaries()
        except StackError as error:
            yield Finding(level=Level.WRONG, subject="Packages", text=str(error))
            continue
        yield Finding(level=Level.OK, subject="Embedded part", text=str(path))


def gpu(environ: Mapping[str, str]) -> Finding:
    """What nvidia-smi says. NVML itself is the worker's: its calls can hang."""
    wanted = environ.get("DF_DEVICE", "auto")
    program = shutil.which("nvidia-smi")
    found = _ask_nvidia_smi(program) if program else ""
    if found:
        return Finding(level=Level.OK, subject="GPU", text=found)
    text = f"{program} finds none" if program else "no NVIDIA driver (nvidia-smi is not installed)"
    if wanted == "cuda":
        return Finding(
            level=Level.WRONG,
            subject="GPU",
            text=f"{text}, and DF_DEVICE=cuda",
            advice="install the NVIDIA driver, or set DF_DEVICE=cpu",
        )
    return Finding(
        level=Level.NOTE,
        subject="GPU",
        text=f"{text}: pictures are made on the CPU, slowly",
        advice="install the NVIDIA driver to use a GPU",
    )


def _ask_nvidia_smi(program: str) -> str:
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(  # noqa: S603 - argv is ours
            query, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(asked.stdout.split("\n")).strip("; ") if asked.returncode == 0 else ""


def _home_of(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent.parent if spec and spec.origin else None


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
