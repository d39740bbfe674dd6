"""Landlock: a process gives up files, TCP and signals, for itself and for all that it starts.

The kernel holds it against every user, root included, and nothing takes it back. Each kernel knows
an ABI, a number that grows: 1 has files (Linux 5.13), 2 links between folders (5.19), 3 truncation
(6.2), 4 TCP (6.7), 5 ioctl on devices (6.10), 6 signals and abstract sockets (6.12). What the
kernel's ABI has is refused; `lacking` names the rest. Sources: the kernel's
userspace-api/landlock.rst and include/uapi/linux/landlock.h.

Some things no ABI has: `chmod` and `chown`, `stat`, sockets that are neither TCP nor abstract
(`seccomp.py` has these).
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from enum import IntFlag

from shared.linux.prctl import libc

_syscall = libc.syscall
_syscall.restype = ctypes.c_long
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets, signals

NEWEST_NEEDED = 6
_SINCE = {
    1: "files",
    2: "links between folders",
    3: "truncation of files",
    4: "TCP",
    5: "ioctl on devices",
    6: "signals and abstract sockets",
}


class Access(IntFlag):
    """Rights on a file, or on all that is below a folder."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
DEVICE = Access.READ_FILE | Access.READ_DIR | Access.WRITE_FILE | Access.IOCTL_DEV
# What a rule may allow on something that is no folder.
_OF_FILES = (
    Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
)


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"  # Python 3.14 wants it said with `_pack_`
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """The kernel's ABI; 0 where it has no Landlock, it is turned off, or a container forbids it."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def lacking(abi: int) -> tuple[str, ...]:
    """What of the list above a kernel of this ABI cannot refuse, in words."""
    return tuple(what for since, what in _SINCE.items() if since > abi)


def handled(abi: int) -> Access:
    """Every right that a kernel of this ABI can refuse."""
    rights = Access((1 << 13) - 1)
    if abi >= 2:
        rights |= Access.REFER
    if abi >= 3:
        rights |= Access.TRUNCATE
    if abi >= 5:
        rights |= Access.IOCTL_DEV
    return rights


def restrict(abi: int, rules: Iterable[tuple[str, Access]]) -> None:
    """Leave this thread, and what it starts, the rights of `rules`: (path, what below it).

    Nothing is allowed elsewhere, no TCP, and no signal or abstract socket of a process that is not
    restricted too. A path that cannot be opened is left out. Several calls add up: what one refuses
    stays refused. Needs PR_SET_NO_NEW_PRIVS. Raises `OSError`.
    """
    handles = handled(abi)
    attr = _RulesetAttr(handles, _TCP if abi >= 4 else 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attr), size, 0)
    try:
        for path, access in rules:
            _allow(ruleset, path, access & handles)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


# A rule holds an inode. The kernel forgets those of /proc that nobody uses and makes new ones,
# which no rule knows. So the files of /proc stay open, by path; a fork opens its own.
_PROC = "/proc"
_in_use: dict[str, int] = {}
os.register_at_fork(after_in_child=_in_use.clear)


def _allow(ruleset: int, path: str, access: Access) -> None:
    if path in _in_use:
        _add_rule(ruleset, _in_use[path], access)
        return
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, not for us, or a link into nowhere: then there is nothing to allow
        return
    try:
        _add_rule(ruleset, fd, access)
    finally:
        if path.startswith(_PROC):
            _in_use[path] = fd
        else:
            os.close(fd)


def _add_rule(ruleset: int, fd: int, access: Access) -> None:
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        access &= _OF_FILES
    attr = _PathBeneathAttr(access, fd)
    _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(attr), 0)


def _call(number: int, *arguments: object) -> int:
    # A register is as wide as a long, and a variadic function does not widen an int.
    wide = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result = int(_syscall(ctypes.c_long(number), *wide))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock, system call {number}: {os.strerror(code)}")
    return result
