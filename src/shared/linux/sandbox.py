"""What the kernel keeps from a runner: decided by the worker, done by the process itself.

A runner decodes strangers' weights and pictures, so its code counts as a stranger's. It reads the
interpreter, the libraries and the model of its step, and writes to no file. It has no socket but
its channel, starts no program and no process, and signals none. Landlock holds its files, seccomp
the rest; root has no capability left but that of reading.

It happens in layers, since only the first is possible before torch is imported, and only after GO
is the step's model known:

    enter   right after `refuse_privileges`, while there is one thread: libraries, all models
    narrow  at GO: the models of the step alone; in a template before it loads: that model, and all
            LoRAs, of which a forked runner keeps those of its step

A template enters as well, with what it needs more: it forks, and looks into `/proc` for its forks.
What it forks inherits its layers and adds those of a runner. `/proc` of other processes shows their
names only: their environment and memory are refused to a process outside their own sandbox.
"""

import ctypes
import ctypes.util
import glob
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path

from shared.linux import landlock, seccomp
from shared.linux.child import MARKER, bound_resources, refuse_privileges
from shared.linux.landlock import DEVICE, READ, Access
from shared.linux.prctl import libc

# Where a process finds what the worker decided; empty for none. `keeps` lets the prefix through.
VARIABLE = f"{MARKER}_SANDBOX"

_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_CAP_DAC_READ_SEARCH = 2

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/cuda")
# What libraries look at before they do anything. None of it is secret.
_READ_BY_LIBRARIES = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/os-release",
    "/etc/pki/tls/openssl.cnf",
    "/etc/ssl/openssl.cnf",
    "/usr/share/zoneinfo",
    "/dev/urandom",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
)
# The driver's files, and the kernel's view of its cards.
_GPU_FILES = ("/dev/nvidia*",)
_READ_BY_DRIVER = (
    "/proc/driver/nvidia",
    "/proc/devices",
    "/sys/devices",
    "/sys/bus/pci",
    "/sys/module",
    "/sys/class",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandbox:
    """What a worker decided for the processes of one kind of device."""

    landlock_abi: int  # 0: files are not held
    seccomp: bool
    models: str  # the folder of all models; empty: none may be read
    gpu: bool = False

    def to_environment(self) -> dict[str, str]:
        """The variable with which a child is started, or forked."""
        return {VARIABLE: json.dumps(asdict(self))}

    def enter(self, *, forks: bool = False) -> None:
        """Give up all but what a runner needs; `forks`: what a template needs. Raises `OSError`."""
        _drop_capabilities()
        _leave_tracker()
        _name_folders_to_write()
        ctypes.util.find_library = _find_no_library
        self._restrict([self.models, *_linked_below(self.models)], forks=forks)
        if self.seccomp:
            seccomp.install(forks=forks)

    def narrow(self, models: Iterable[str], *, forks: bool = False) -> None:
        """Keep of all models only those in these folders. Raises `OSError`."""
        self._restrict(models, forks=forks)

    def _restrict(self, models: Iterable[str], *, forks: bool) -> None:
        if self.landlock_abi:
            rules = [*_libraries(), *((folder, READ) for folder in models)]
            rules.append(("/proc" if forks else "/proc/self", READ))
            if self.gpu:
                rules += _gpu()
            landlock.restrict(self.landlock_abi, rules)


NO_SANDBOX = {VARIABLE: ""}

# A place, and the file that it leads to: device and inode.
Place = tuple[str, int, int]


def places_of(models: str) -> frozenset[Place]:
    """What `enter` allows of the models now: their folder, and where links in it lead.

    A process that entered when it was another set cannot read all that is there now.
    """
    places = set()
    for path in (models, *_linked_below(models)):
        try:
            status = os.stat(path)
        except OSError:  # a link to nowhere; it is seen when it leads somewhere
            continue
        places.add((path, status.st_dev, status.st_ino))
    return frozenset(places)


def folders_of_kind(models: str, kind: str) -> list[str]:
    """What must be readable for every model of one kind: its folder, and what is linked in it."""
    folder = os.path.join(models, kind)
    return [folder, *(entry.path for entry in _entries(folder) if entry.is_symlink())]


def sandbox_of(environ: Mapping[str, str]) -> Sandbox | None:
    """What the worker decided for this process; None where it is not to be contained."""
    decided = environ.get(VARIABLE)
    return Sandbox(**json.loads(decided)) if decided else None


def contain_helper() -> None:
    """Enter what the worker decided for a process of its own that only asks the driver.

    Where that is nothing, the process keeps its right to setuid programs: the driver's library runs
    one where device files are missing. Raises `OSError`.
    """
    if (sandbox := sandbox_of(os.environ)) is not None:
        refuse_privileges()
        bound_resources()
        sandbox.enter()


@cache
def _libraries() -> tuple[tuple[str, Access], ...]:
    """Interpreter, libraries and our own code; nothing of other folders on the path.

    What a template has found is at hand in each runner that it forks.
    """
    ours = Path(__file__).parents[2]
    folders = {
        *(
            f"{prefix}/{name}"
            for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)
            for name in ("lib", sys.platlibdir)
        ),
        *(path for path in sys.path if path.endswith(("/site-packages", "/dist-packages"))),
        *(str(ours / package) for package in ("runner", "shared")),
        *os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep),
        *_LIBRARIES,
        *_READ_BY_LIBRARIES,
    }
    return (
        *((folder, READ) for folder in sorted(folders) if folder),
        (str(ours), Access.READ_DIR),  # an import of ours lists it
        ("/dev/null", DEVICE),
    )


def _gpu() -> Iterator[tuple[str, Access]]:
    for pattern in _GPU_FILES:
        yield from ((path, DEVICE) for path in glob.glob(pattern))
    yield from ((path, READ) for path in _READ_BY_DRIVER)
    yield "/proc/self", READ | Access.WRITE_FILE  # the driver names its threads


def _linked_below(models: str) -> Iterator[str]:
    """Folders of models, or of kinds of them, that are links to another place."""
    folders = [models]
    for _ in ("kinds", "models"):
        entries = [entry for folder in folders for entry in _entries(folder)]
        yield from (entry.path for entry in entries if entry.is_symlink())
        folders = [entry.path for entry in entries if _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or into a folder that is not for us
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # not there yet, or not for us: there is nothing to read then
        return []


def _name_folders_to_write() -> None:
    """Find the folder for temporary files while one can be tried; it is one for compiled code, too.

    Libraries ask for both when they are imported, and would fail. They are refused when they write,
    which none does here. torchvision imports torch's compiler.
    """
    with suppress(FileNotFoundError):  # no folder can be written here, not even uncontained
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.gettempdir())


def _find_no_library(name: str) -> None:
    """What `ctypes.util.find_library` answers from now on; libraries then take the usual name.

    The library's own starts ldconfig, and where it may not, gcc with a file that it writes. The
    kernel refuses the file, and no caller handles that error: a runner on a host with a compiler
    could not import torch for CUDA.
    """


def _leave_tracker() -> None:
    """Cut multiprocessing's tracker off: it removes, outside of the sandbox, what it is told."""
    if (tracker := resource_tracker.getfd()) is not None:
        nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nothing, tracker, inheritable=False)
        os.close(nothing)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def _drop_capabilities() -> None:
    """Keep of root's rights the one to read: models may belong to another user."""
    kept = 1 << _CAP_DAC_READ_SEARCH if os.geteuid() == 0 else 0
    header = _Header(_CAPABILITY_VERSION_3, 0)
    held = (_Capabilities * 2)()
    if libc.capget(ctypes.byref(header), ctypes.byref(held)) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    kept &= held[0].permitted
    left = (_Capabilities * 2)(_Capabilities(kept, kept, 0))
    if libc.capset(ctypes.byref(header), ctypes.byref(left)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
