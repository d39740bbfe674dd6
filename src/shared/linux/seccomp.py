"""A seccomp filter: the kernel refuses system calls that a runner has no use for, with EPERM.

Landlock holds files; what it does not know is here. A process under this filter

- gets no socket but one that it was given, or a connected pair: no TCP, UDP, raw, netlink, and no
  unix socket of a server. io_uring, which would make one unseen, is refused too;
- executes no program, and starts no process but threads (`forks=True`, for templates: it forks);
- signals itself only (not with `forks=True`: the filter has one pid, and a fork another);
- changes no file's owner, mode, times or attributes, which Landlock does not refuse;
- reads, traces or limits no other process, and meets none in System V's or POSIX's queues, shared
  memory or semaphores, or in keyrings;
- mounts nothing and enters no namespace.

The filter is a program of classic BPF over `struct seccomp_data`. Its numbers are those of the
kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
"""

import ctypes
import errno
import os
import struct
from functools import cache

from shared.linux.prctl import PR_SET_SECCOMP, prctl

_FILTER = 2  # SECCOMP_MODE_FILTER
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
# linux/bpf_common.h: load a word of the data, compare with a constant, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_AT, _ARCH_AT = 0, 4  # struct seccomp_data
_CLONE_THREAD = 0x00010000
_CLONE_NEW = 0x7E020000  # every namespace that a clone may make
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_X32_BIT = 0x40000000  # of x86_64's other table

# The architecture's id in the filter's data (AUDIT_ARCH_*), and its numbers of system calls.
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS = {
    "x86_64": """
        socket 41, connect 42, bind 49, listen 50, accept 43, accept4 288, io_uring_setup 425,
        io_uring_enter 426, io_uring_register 427, execve 59, execveat 322, chmod 90, fchmod 91,
        fchmodat 268, fchmodat2 452, chown 92, fchown 93, lchown 94, fchownat 260, setxattr 188,
        lsetxattr 189, fsetxattr 190, removexattr 197, lremovexattr 198, fremovexattr 199,
        setxattrat 463, removexattrat 466, utime 132, utimes 235, futimesat 261, utimensat 280,
        ptrace 101, process_vm_readv 310, process_vm_writev 311, kcmp 312, pidfd_getfd 438,
        process_madvise 440, migrate_pages 256, move_pages 279, setpriority 141,
        sched_setparam 142, sched_setscheduler 144, sched_setaffinity 203, ioprio_set 251,
        sched_setattr 314, shmget 29,
        shmat 30, shmctl 31, semget 64, semop 65, semctl 66, semtimedop 220, msgget 68, msgsnd 69,
        msgrcv 70, msgctl 71, mq_open 240, mq_unlink 241, add_key 248, request_key 249, keyctl 250,
        bpf 321, perf_event_open 298, userfaultfd 323, open_by_handle_at 304, mount 165,
        umount2 166, pivot_root 155, chroot 161, unshare 272, setns 308, open_tree 428,
        move_mount 429, fsopen 430, fsmount 432, mount_setattr 442, fork 57, vfork 58, clone 56,
        clone3 435, kill 62, tgkill 234, rt_sigqueueinfo 129, rt_tgsigqueueinfo 297, tkill 200,
        pidfd_send_signal 424, socketpair 53, prlimit64 302,
    """,
    "aarch64": """
        socket 198, connect 203, bind 200, listen 201, accept 202, accept4 242, io_uring_setup 425,
        io_uring_enter 426, io_uring_register 427, execve 221, execveat 281, fchmod 52,
        fchmodat 53, fchmodat2 452, fchownat 54, fchown 55, setxattr 5, lsetxattr 6, fsetxattr 7,
        removexattr 14, lremovexattr 15, fremovexattr 16, setxattrat 463, removexattrat 466,
        utimensat 88, ptrace 117, process_vm_readv 270, process_vm_writev 271, kcmp 272,
        pidfd_getfd 438, process_madvise 440, migrate_pages 238, move_pages 239, setpriority 140,
        sched_setparam 118, sched_setscheduler 119, sched_setaffinity 122, ioprio_set 30,
        sched_setattr 274, shmget 194,
        shmctl 195, shmat 196, semget 190, semctl 191, semtimedop 192, semop 193, msgget 186,
        msgctl 187, msgrcv 188, msgsnd 189, mq_open 180, mq_unlink 181, add_key 217,
        request_key 218, keyctl 219, bpf 280, perf_event_open 241, userfaultfd 282,
        open_by_handle_at 265, mount 40, umount2 39, pivot_root 41, chroot 51, unshare 97,
        setns 268, open_tree 428, move_mount 429, fsopen 430, fsmount 432, mount_setattr 442,
        clone 220, clone3 435, kill 129, tgkill 131, rt_sigqueueinfo 138, rt_tgsigqueueinfo 240,
        tkill 130, pidfd_send_signal 424, socketpair 199, prlimit64 261,
    """,
}

# Treated by their arguments, or only where a process forks none. All other names are refused.
_OTHER_KILLS = ("tkill", "pidfd_send_signal")
_KILLS = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")  # the first argument: whom
_FORKS = ("fork", "vfork")
_OF_ITSELF = ("prlimit64", "sched_setaffinity")  # the first argument: of whom, 0 is the caller
_BY_ARGUMENT = {"socketpair", *_OF_ITSELF, "clone", "clone3", *_OTHER_KILLS, *_KILLS, *_FORKS}


@cache
def numbers(machine: str) -> dict[str, int]:
    """The number of each system call that is looked at, by name."""
    pairs = (pair.split() for pair in _NUMBERS[machine].split(",") if pair.strip())
    return {name: int(number) for name, number in pairs}


def available() -> bool:
    """Whether this kernel and machine take our filter."""
    if os.uname().machine not in _NUMBERS:
        return False
    # Without a program the kernel looks no further than whether it knows filters.
    try:
        prctl(PR_SET_SECCOMP, _FILTER)
    except OSError as error:
        return error.errno == errno.EFAULT
    return True


def install(*, forks: bool) -> None:
    """Put this thread, and what it starts, under the filter. `forks` leaves fork and signals.

    Needs PR_SET_NO_NEW_PRIVS. Several filters add up. Raises `OSError`.
    """
    machine = os.uname().machine
    program = [*_common(machine), *([] if forks else _alone(machine)), _step(_RETURN, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))  # struct sock_fprog
    pointer = ctypes.create_string_buffer(header)
    prctl(PR_SET_SECCOMP, _FILTER, ctypes.addressof(pointer))


# A program is made of blocks. Each leaves the number of the system call loaded, or returns.


@cache
def _common(machine: str) -> list[bytes]:
    """What no process needs. A template has made it for each runner that it forks."""
    # Another table of system calls, as of 32-bit programs, would have other numbers.
    program = [
        _step(_LOAD, _ARCH_AT),
        *_unless(_AUDIT[machine], _refuse()),
        _step(_LOAD, _NUMBER_AT),
    ]
    program += [_step(_AT_LEAST, _X32_BIT, no=1), _refuse()]
    number = numbers(machine)
    for name in number.keys() - _BY_ARGUMENT:
        program += _when(number[name], [_refuse()])
    # Of a pair only streams: a datagram socket could send to any address later.
    stream = [
        _step(_LOAD, _argument(0)),
        *_unless(_AF_UNIX, _refuse()),
        _step(_LOAD, _argument(1)),
        _step(_AND, _SOCK_TYPE_MASK),
        *_unless(_SOCK_STREAM, _refuse()),
        _step(_RETURN, _ALLOW),
    ]
    program += _when(number["socketpair"], stream)
    for name in _OF_ITSELF:
        program += _when(number[name], _only(0))
    # The flags of `clone3` are in memory, which no filter reads. libc goes on with `clone`.
    program += _when(number["clone3"], [_refuse(errno.ENOSYS)])
    namespaces = [
        _step(_LOAD, _argument(0)),
        _step(_ANY_BIT, _CLONE_NEW, no=1),
        _refuse(),
        _step(_LOAD, _NUMBER_AT),
    ]
    return program + _when(number["clone"], namespaces)


def _alone(machine: str) -> list[bytes]:
    """What a process does not need that starts no other: fork, and signals to others."""
    program = []
    number = numbers(machine)
    for name in (*_FORKS, *_OTHER_KILLS):
        if name in number:
            program += _when(number[name], [_refuse()])
    for name in _KILLS:
        program += _when(number[name], _only(os.getpid()))
    thread = [
        _step(_LOAD, _argument(0)),
        _step(_ANY_BIT, _CLONE_THREAD, no=1),
        _step(_RETURN, _ALLOW),
        _refuse(),
    ]
    return program + _when(number["clone"], thread)


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; `yes` and `no` are how many follow that a comparison jumps over."""
    return struct.pack("HBBI", code, yes, no, value)


def _refuse(number: int = errno.EPERM) -> bytes:
    return _step(_RETURN, _ERRNO | number)


def _when(value: int, block: list[bytes]) -> list[bytes]:
    """`block`, which returns, where the loaded word is `value`."""
    return [_step(_EQUAL, value, no=len(block)), *block]


def _unless(value: int, instruction: bytes) -> list[bytes]:
    return [_step(_EQUAL, value, yes=1), instruction]


def _only(value: int) -> list[bytes]:
    """Allow where the first argument is `value`."""
    return [_step(_LOAD, _argument(0)), *_unless(value, _refuse()), _step(_RETURN, _ALLOW)]


def _argument(index: int) -> int:
    """The place of an argument's lower half: both machines are little-endian."""
    return 16 + 8 * index
