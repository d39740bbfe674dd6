"""Layers of the sandbox, each in a process of its own; nothing here needs a GPU or torch."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.linux import landlock, seccomp
from shared.linux.landlock import Access
from shared.linux.sandbox import NO_SANDBOX, Sandbox, places_of, sandbox_of

needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="a kernel without Landlock")
needs_seccomp = pytest.mark.skipif(not seccomp.available(), reason="no seccomp here")

SANDBOX = Sandbox(landlock_abi=landlock.abi(), seccomp=seccomp.available(), models="/models")


def contained(code: str, **sandbox: Any) -> str:
    """What `code` prints in a process that may enter `box`; `read` says whether a file opens."""
    script = (
        "import os\n"
        "from pathlib import Path\n"
        "from shared.linux import child, landlock, sandbox, seccomp\n"
        "def read(path):\n"
        "    try:\n"
        "        return bool(Path(path).read_bytes())\n"
        "    except PermissionError:\n"
        "        return False\n"
        f"box = sandbox.Sandbox(**{_fields(**sandbox)!r})\n"
        "child.refuse_privileges()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script + code],
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def _fields(**changes: Any) -> dict[str, Any]:
    (variable,) = SANDBOX.to_environment().values()
    fields: dict[str, Any] = json.loads(variable)
    return fields | changes


def test_a_process_finds_what_the_worker_decided() -> None:
    assert sandbox_of(SANDBOX.to_environment()) == SANDBOX
    assert sandbox_of(NO_SANDBOX) is None
    assert sandbox_of({}) is None


@needs_landlock
@pytest.mark.parametrize("forks", [False, True])
def test_all_models_are_read_before_go_and_only_those_of_the_step_after(
    tmp_path: Path, forks: bool
) -> None:
    models, elsewhere = tmp_path / "models", tmp_path / "elsewhere"
    for folder in (models / "sd/a@1", models / "sd/b@1", elsewhere):
        folder.mkdir(parents=True)
        (folder / "weights").write_text("x")
    (models / "sd/linked@1").symlink_to(elsewhere)
    paths = [str(models / f"sd/{name}@1/weights") for name in ("a", "b", "linked")]
    code = (
        f"paths = {[*paths, '/etc/passwd']!r}\n"
        f"box.enter(forks={forks}); print([read(path) for path in paths])\n"
        f"box.narrow([{str(models / 'sd/a@1')!r}], forks={forks})\n"
        "print([read(path) for path in paths])\n"
        "print(bool(os.listdir('/proc/self/fd')))"
    )
    before, after, _ = contained(code, models=str(models)).splitlines()
    assert before == "[True, True, True, False]"
    assert after == "[True, False, False, False]"


@needs_landlock
@needs_seccomp
def test_a_library_that_is_looked_for_by_the_compiler_is_not_found(tmp_path: Path) -> None:
    """As CUDA's bindings do when torch is imported. The compiler may be there, and may not run."""
    for name in ("gcc", "cc", "ld"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    code = (
        f"os.environ['PATH'] = {str(tmp_path)!r}\n"
        "box.enter()\n"
        "from ctypes.util import find_library\n"
        "print(find_library('dl'))"
    )
    assert contained(code) == "None"


@needs_landlock
def test_a_link_that_leads_nowhere_among_the_models_hinders_no_start(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "sd/a@1").mkdir(parents=True)
    (models / "sd/a@1/weights").write_text("x")
    (models / "sd/circle").symlink_to("circle")
    (models / "gone").symlink_to(tmp_path / "gone")
    code = f"box.enter(); print(read({str(models / 'sd/a@1/weights')!r}))"
    assert contained(code, models=str(models)) == "True"


def test_a_link_that_appears_or_leads_elsewhere_makes_other_places(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for folder in (models / "sd/a@1", tmp_path / "one", tmp_path / "two"):
        folder.mkdir(parents=True)
    seen = [places_of(str(models))]
    (models / "sd/b@1").mkdir()  # lies below the folder of all models: it may be read
    assert places_of(str(models)) == seen[-1]
    (models / "sd/gone@1").symlink_to(tmp_path / "gone")
    assert places_of(str(models)) == seen[-1], "a link to nowhere is as good as none"
    (models / "sd/linked@1").symlink_to(tmp_path / "one")
    seen.append(places_of(str(models)))
    (models / "kind").symlink_to(tmp_path / "two")
    seen.append(places_of(str(models)))
    (tmp_path / "gone").mkdir()
    seen.append(places_of(str(models)))
    (tmp_path / "two").rename(tmp_path / "moved")
    (tmp_path / "two").mkdir()
    seen.append(places_of(str(models)))
    (models / "sd/linked@1").unlink()
    seen.append(places_of(str(models)))
    assert len(set(seen)) == 6
    assert places_of(str(tmp_path / "none")) == frozenset()


@needs_landlock
def test_what_is_allowed_of_proc_is_held_so_that_the_kernel_does_not_forget_it() -> None:
    """A rule knows an inode, and that of a file of /proc lives only as long as somebody uses it."""
    code = (
        "box.enter(); box.narrow([])\n"
        "fds = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')\n"
        "       if os.path.lexists(f'/proc/self/fd/{fd}')]\n"
        "print(sorted(fd for fd in fds if fd.startswith('/proc/') and fd.count('/') < 3))"
    )
    held = contained(code)
    assert held.count("'/proc/meminfo'") == 1  # once, whatever the number of layers
    assert "/proc/cpuinfo" in held and "/proc/stat" in held


@needs_seccomp
def test_a_process_sets_the_affinity_of_no_other_and_makes_no_namespace() -> None:
    code = (
        "import ctypes, signal\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "box.enter(forks={forks})\n"
        "os.sched_setaffinity(0, os.sched_getaffinity(0))\n"
        "try:\n"
        "    os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
        "CLONE_NEWUSER = 0x10000000\n"
        "flags = ctypes.c_long(CLONE_NEWUSER | signal.SIGCHLD)\n"
        "number = {{'x86_64': 56, 'aarch64': 220}}[os.uname().machine]\n"
        "print(libc.syscall(ctypes.c_long(number), flags, None, None, None, None))\n"
    )
    for forks in (False, True):
        assert contained(code.format(forks=forks)).splitlines() == [str(errno.EPERM), "-1"]


@needs_landlock
def test_other_folders_on_the_path_are_closed_and_hinder_no_import(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("x = 1")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        f"box.enter(); folder = Path({str(tmp_path)!r})\n"
        "print(os.access(folder, os.R_OK), read(folder / 'secret.py'))\n"
        "try:\n"
        "    os.listdir(folder)\n"
        "except PermissionError:\n"
        "    print('closed')\n"
        "import wave; print(wave.__name__)"  # a module that no one has imported yet
    )
    assert contained(code).splitlines() == ["True False", "closed", "wave"]


@needs_landlock
def test_rules_of_old_abis_ask_for_no_more_than_the_kernel_had() -> None:
    code = "box.enter(); print(read('/etc/passwd'), read(os.__file__))"
    for abi in range(1, landlock.abi() + 1):
        assert contained(code, landlock_abi=abi) == "False True"


def test_each_abi_refuses_more_and_lacks_less() -> None:
    assert landlock.lacking(landlock.NEWEST_NEEDED) == ()
    assert landlock.lacking(4) == ("ioctl on devices", "signals and abstract sockets")
    assert landlock.lacking(0)[0] == "files"
    assert Access.TRUNCATE in landlock.handled(3)
    assert Access.TRUNCATE not in landlock.handled(2)
    assert Access.IOCTL_DEV not in landlock.handled(4)


@needs_seccomp
def test_a_runner_has_threads_and_pairs_and_a_template_forks() -> None:
    code = (
        "import socket, threading\n"
        "box.enter(forks={forks})\n"
        "socket.socketpair()\n"
        "thread = threading.Thread(target=print, args=('a thread',))\n"
        "thread.start(); thread.join()\n"
        "os.kill(os.getpid(), 0)\n"
        "try:\n"
        "    os.fork() or os._exit(0)\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    assert contained(code.format(forks=False)).splitlines() == ["a thread", str(errno.EPERM)]
    assert contained(code.format(forks=True)).splitlines() == ["a thread"]


@needs_seccomp
def test_the_filter_knows_the_numbers_of_this_machine() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if os.uname().machine != "x86_64" or not header.exists():
        pytest.skip("no header of the kernel to compare with")
    lines = (line.split() for line in header.read_text(encoding="utf-8").splitlines())
    there = {line[1]: line[2] for line in lines if len(line) == 3 and line[0] == "#define"}
    ours = seccomp.numbers("x86_64")
    assert {"socket", "execve", "ptrace", "io_uring_setup", "chmod", "setns"} <= ours.keys()
    wrong = {name for name in ours if there.get(f"__NR_{name}", str(ours[name])) != str(ours[name])}
    assert wrong == set()


def test_both_machines_refuse_the_same_but_for_what_one_does_not_have() -> None:
    intel, arm = (seccomp.numbers(machine) for machine in ("x86_64", "aarch64"))
    old = {"chmod", "chown", "lchown", "utime", "utimes", "futimesat", "fork", "vfork"}
    assert intel.keys() - arm.keys() == old
    assert arm.keys() <= intel.keys()


def test_a_runner_leaves_no_core_and_no_file_without_end() -> None:
    code = (
        "import resource; child.bound_resources()\n"
        "bounds = child.BOUNDS.items()\n"
        "print([resource.getrlimit(limit) == (most, most) for limit, most in bounds])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); child.bound_resources()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert contained(code).splitlines() == ["[True, True, True]", "(64, 64)"]
