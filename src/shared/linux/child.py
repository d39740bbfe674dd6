"""The first moments of a child process of a worker: its streams, session, signals, environment.

Light on purpose: the standard library only. The order in `isolate_process` matters:

1. `setsid`: the child leads its own group, so one signal reaches all that it starts, and a Ctrl-C
   in the worker's terminal does not reach it.
2. `PR_SET_PDEATHSIG`: the kernel kills the child when the thread that spawned it ends. The child
   sets it itself, so the parent may be gone already: `getppid` is checked *after* it.
3. Signals: spawn keeps ignored signals ignored and blocked ones blocked. A runner that inherited a
   blocked SIGTERM could never be stopped by it.
4. Environment: only what is on the list stays. The worker starts a child with nothing else
   (`/proc/<pid>/environ` shows that); this is the second check.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable, MutableMapping
from multiprocessing.connection import Connection
from typing import NoReturn

from shared.linux.prctl import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

KEPT = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"})
# By its marker a worker finds the orphans of a killed one.
MARKER = "DREAMFORGE_RUNNER"
KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "PYTHON", MARKER)

SET = {
    # A running service never downloads; a library that tries anyway must fail, not wait.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DIFFUSERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    # stderr is for tracebacks; at import transformers would advise us to install torchvision.
    "TRANSFORMERS_VERBOSITY": "error",
    # One prompt is tokenized per item: a Rust thread pool for that costs more than it saves.
    "TOKENIZERS_PARALLELISM": "false",
    # numpy only copies pixels here; without this its BLAS starts a thread per core at import.
    "OPENBLAS_NUM_THREADS": "1",
    # cuBLAS repeats its sums in the same order only with a workspace of fixed size, and the same
    # seed must give the same bytes (the value is NVIDIA's own, 8 buffers of 4096 KiB).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

# What the loader reads before Python begins, so only a spawn can set it. Memory of the C library's
# in huge pages, where the host has them: a fork copies and frees one entry of its page table for
# 512, which halves its CPU time and matters more the larger a model is.
AT_START = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

BOUNDS = {
    resource.RLIMIT_CORE: 0,  # it would hold the prompt and the weights
    resource.RLIMIT_FSIZE: 1 << 30,  # bytes; room for the driver's cache of compiled kernels
    resource.RLIMIT_NOFILE: 1024,  # a model in hundreds of files; a GPU runner opens some dozens
}


def child_main(
    entry: Callable[[Connection, int], None],
    connection: Connection,
    output: Connection,
    parent_pid: int,
) -> None:
    """The first function of every child of a worker: replace its standard streams, call its entry.

    Spawn passes the worker's streams on. What a child writes there would pass for a line of the
    worker's log, and a flag that it sets on such a file would be set for the worker too.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    os.close(nothing)
    output.close()
    entry(connection, parent_pid)


def isolate_process(parent_pid: int) -> None:
    """Give this process its own session, a death with its parent, and a clean environment."""
    os.setsid()
    die_with_parent(parent_pid)
    reset_signals()
    scrub(os.environ)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exit at once if it has ended."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def refuse_privileges() -> None:
    """Gain no rights by running a setuid program: the worker must be able to signal every process.

    Not for the worker's own helpers, unless they are contained: they come first on a GPU, and there
    the driver's library runs `nvidia-modprobe`, which is setuid, where device files are missing.
    """
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def bound_resources() -> None:
    """Bound what a runner can leave or take on the host, whatever it runs; lower bounds stay.

    Not its memory: CUDA maps far more than it uses. Not its processes: that bound counts those of
    the user, and a container's worker shares one with others; `seccomp.py` refuses to start any.
    """
    for limit, most in BOUNDS.items():
        _, hard = resource.getrlimit(limit)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (bound, bound))


def reset_signals() -> None:
    """Default action for every signal, none blocked. Real-time signals belong to libc."""
    for number in signal.valid_signals():
        # Python ignores these two so that a write to a closed pipe, or past RLIMIT_FSIZE, raises;
        # that stays.
        if number < signal.SIGRTMIN and number not in {
            signal.SIGKILL,
            signal.SIGSTOP,
            signal.SIGPIPE,
            signal.SIGXFSZ,
        }:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def keeps(name: str) -> bool:
    """Whether a child keeps a variable of the worker's environment."""
    # Under MPS the memory of two processes cannot be told apart, so no child finds its daemon.
    return name in KEPT or (name.startswith(KEPT_PREFIXES) and not name.startswith("CUDA_MPS_"))


def scrub(environment: MutableMapping[str, str]) -> None:
    """Keep what is on the list, remove the rest, set what a runner needs."""
    for name in list(environment):
        if not keeps(name):
            del environment[name]
    environment.update(SET)


def exit_now(code: int) -> NoReturn:
    """Exit without Python's teardown: after torch it takes more than a second and frees nothing."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # a closed stream has nothing left to say
    os._exit(code)
