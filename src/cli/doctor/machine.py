"""What the doctor checks first: the machine."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from cli.doctor.finding import Finding, note, ok, wrong
from cli.errors import StackError
from cli.servers.embedded import SERVERS

OLDEST, NEWEST = (3, 11), (3, 13)
# Our packages are top-level names, and a distribution of the same name may overwrite them.
OUR_PACKAGES = ("api", "supervisor", "runner", "shared", "cli")
_NVIDIA_SMI_TIMEOUT_S = 20.0


def examine(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Interpreter, platform, packages, GPU."""
    yield python(sys.version_info[:2])
    yield machine(platform.system(), platform.machine())
    yield from packages()
    yield from embedded(environ)
    yield gpu(environ)
    yield ok("Docker", "not needed")


def python(version: tuple[int, int]) -> Finding:
    text = ".".join(map(str, version))
    if OLDEST <= version <= NEWEST:
        return ok("Python", text)
    return wrong("Python", f"{text} is not supported", "use Python 3.11, 3.12 or 3.13")


def machine(system: str, architecture: str) -> Finding:
    text = f"{system} on {architecture}"
    if system == "Linux":
        return ok("Platform", text)
    return wrong(
        "Platform",
        f"{text}: the worker needs Linux (process groups, pidfd, /proc)",
        "run the worker on a Linux host; the command line works from here (DF_API_BASE)",
    )


def packages() -> Iterator[Finding]:
    """A package of another project under one of our names."""
    ours = Path(__file__).parents[2]
    conflicts = [name for name in OUR_PACKAGES if _folder_of(name) != ours or _installed(name)]
    for name in conflicts:
        yield wrong(
            "Packages",
            f"another package named {name!r} is installed in this environment",
            f"pip uninstall {name}, or give dreamforge a virtual environment of its own",
        )
    if not conflicts:
        yield ok("Packages", "no package has one of our names")


def embedded(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The packages that bring the parts which no setting names; an image has none of them."""
    for server in SERVERS:
        if environ.get(server.settings[0]):
            continue
        try:
            yield ok("Embedded part", str(server.find_program()))
        except StackError as error:
            yield wrong("Packages", str(error))


def gpu(environ: Mapping[str, str]) -> Finding:
    """What nvidia-smi says. Only the worker calls NVML itself: its calls can hang."""
    program = shutil.which("nvidia-smi")
    devices = _query_nvidia_smi(program) if program else ""
    if devices:
        return ok("GPU", devices)
    text = f"{program} finds none" if program else "no NVIDIA driver (nvidia-smi is not installed)"
    if environ.get("DF_DEVICE", "auto") == "cuda":
        return wrong(
            "GPU",
            f"{text}, and DF_DEVICE=cuda",
            "install the NVIDIA driver, or set DF_DEVICE=cpu",
        )
    return note(
        "GPU",
        f"{text}: pictures are made on the CPU, slowly",
        "install the NVIDIA driver to use a GPU",
    )


def _query_nvidia_smi(program: str) -> str:
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - argv is ours
            query, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(answer.stdout.split("\n")).strip("; ") if answer.returncode == 0 else ""


def _folder_of(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent.parent if spec and spec.origin else None


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
