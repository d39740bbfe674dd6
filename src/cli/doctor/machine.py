"""What the doctor checks first: the machine."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
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
# Name of each, and why no worker serves it (nothing: one does); or why there is no driver.
GPUs = list[tuple[str, str]] | str


class NoAnswer(Exception):
    """There is a driver, and NVML does not answer."""


def examine(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Interpreter, platform, packages, GPU, memory, sandbox."""
    yield python(sys.version_info[:2])
    yield machine(platform.system(), platform.machine())
    yield from packages()
    yield from embedded(environ)
    yield from gpu(environ)
    yield from memory_group()
    yield step_groups()
    if platform.system() == "Linux":
        yield sandbox(environ)
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


def gpu(environ: Mapping[str, str], ask: Callable[[], GPUs] | None = None) -> Iterator[Finding]:
    """Which GPUs a worker serves here, and why not the others; what nvidia-smi says of them.

    `ask` asks NVML, which is what the worker goes by.
    """
    program = shutil.which("nvidia-smi")
    listed = _query_nvidia_smi(program) if program else ""
    setting = environ.get("DF_DEVICE") or "auto"
    try:
        found = (ask or _ask_nvml)()
    except NoAnswer as error:
        yield _no_answer(setting, str(error))
        return
    devices = [] if isinstance(found, str) else found
    for name, why in devices:
        if why:
            yield note("GPU", f"{name} is not served: {why}")
    served = [name for name, why in devices if not why]
    if served and setting == "cpu":
        yield note("GPU", f"{', '.join(served)}; no worker uses it: DF_DEVICE=cpu", "unset it")
    elif served:
        all_served = len(served) == len(devices)
        yield ok("GPU", listed if listed and all_served else f"{', '.join(served)}, by NVML")
    else:
        yield _no_gpu(setting, found, listed)


def _no_answer(setting: str, why: str) -> Finding:
    """Unlike a host without a driver, on which `auto` serves the CPU."""
    if setting == "cpu":
        return note("GPU", f"NVML does not answer: {why}; DF_DEVICE=cpu serves the CPU alone")
    return wrong(
        "GPU",
        f"NVML does not answer: {why}; a worker does not start",
        "after an update of the driver start the host anew, in a container start a new one; or set "
        "DF_DEVICE=cpu",
    )


def _no_gpu(setting: str, found: GPUs, listed: str) -> Finding:
    text = "NVML lists none"
    if found:
        text = f"NVML does not answer: {found}" if isinstance(found, str) else "none can be served"
    if listed:
        text = f"{text}, though nvidia-smi lists {listed}"
    if setting == "cuda":
        return wrong(
            "GPU",
            f"{text}, and DF_DEVICE=cuda",
            "install the NVIDIA driver, or set DF_DEVICE=cpu",
        )
    return note(
        "GPU",
        f"{text}; pictures are made on the CPU, slowly",
        "install the NVIDIA driver to use a GPU; in a container, start a new one with the GPU",
    )


def _ask_nvml() -> GPUs:
    """Ask as the worker does: in processes of their own, and never without a deadline."""
    import anyio

    from supervisor.devices.device import DeviceLost, DriverAbsent
    from supervisor.devices.gpu import may_have_gpus, survey

    if not may_have_gpus():
        return "there is no NVIDIA driver"
    if find_spec("pynvml") is None:  # the api's image serves no GPU
        return "this installation has no package nvidia-ml-py"
    try:
        return anyio.run(survey)
    except DriverAbsent as error:
        return str(error)
    except DeviceLost as error:
        raise NoAnswer(str(error)) from error


def memory_group() -> Iterator[Finding]:
    """A control group whose processes the kernel kills together."""
    from supervisor.devices.cgroup import kills_together

    if group := kills_together():
        yield note(
            "Memory",
            f"the kernel kills all processes of {group} at once: a step that needs too much memory "
            "ends the worker and its other steps too",
            "docs/operations.md says how to turn that off (memory.oom.group)",
        )


def step_groups() -> Finding:
    """Whether a worker that is started from here can bound the memory of each step."""
    from supervisor.processes.control_groups import NoGroups, find_base

    try:
        return ok("Memory", f"a step can have a control group of its own, below {find_base()}")
    except NoGroups as error:
        return note(
            "Memory",
            f"the memory of a step is not bounded by a control group: {error}",
            "docs/worker.md says how a worker gets groups (systemd: Delegate=yes)",
        )


def sandbox(environ: Mapping[str, str]) -> Finding:
    """What the kernel keeps from runners here, and what it cannot."""
    from supervisor.processes.containment import read_kernel

    mode = environ.get("DF_SANDBOX") or "auto"
    kernel = read_kernel()
    lacking = ", ".join(kernel.lacking())
    if mode == "off":
        return note(
            "Sandbox",
            "runners are not contained: DF_SANDBOX=off",
            "unset it, unless you trust every model and every picture that is sent",
        )
    if not lacking:
        gpus = "; on GPUs with DF_SANDBOX=require alone" if mode == "auto" else ""
        return ok("Sandbox", f"the kernel contains runners ({kernel}){gpus}")
    text = f"this kernel ({kernel}) cannot refuse runners {lacking}"
    advice = "use Linux 6.12 or newer, with Landlock turned on"
    if mode == "require":
        return wrong("Sandbox", f"{text}, and DF_SANDBOX=require", advice)
    return note("Sandbox", text, advice)


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
