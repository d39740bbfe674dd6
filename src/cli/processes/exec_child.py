"""The first program of every child: it sets the child up, then executes the real program.

    python -I -S exec_child.py PARENT UID:GID:CAPABILITY PROGRAM ARGUMENT...

Run as a script with the standard library only. The alternative, a function between fork and exec,
is Python in a forked copy of a process with threads, which may deadlock and which Python 3.12
began to warn of.

It dies with its parent (PR_SET_PDEATHSIG, which a change of user would clear, hence the order) and
takes another user's identity where one is given. A capability, where one is given, is kept as an
ambient one: run_as.py says what for. SECBIT_NO_SETUID_FIXUP is needed with it, because access(2),
with which postgres looks for its own binary, ignores the capabilities of a non-root user otherwise.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG, _PR_SET_SECUREBITS = 1, 28
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Caps(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def main() -> None:
    parent, identity, *argv = sys.argv[1:]
    if identity:
        uid, gid, capability = (int(part) if part else None for part in identity.split(":"))
        assert uid is not None and gid is not None, "an identity without a user"
        _become_user(uid, gid, capability)
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if os.getppid() != int(parent):  # it died before the line above could matter
        sys.exit(1)
    os.execv(argv[0], argv)  # noqa: S606 - argv is ours


def _become_user(uid: int, gid: int, capability: int | None) -> None:
    if capability is not None:
        _check(_libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0))
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if capability is not None:
        _keep_only(1 << capability)


def _keep_only(bit: int) -> None:
    caps = (_Caps * 2)(_Caps(bit, bit, bit))
    _check(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), caps))
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, bit.bit_length() - 1, 0, 0))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
