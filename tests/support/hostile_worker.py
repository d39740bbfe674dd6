"""A worker, `python -m tests.support.hostile_worker`, whose runners attack what is around them.

It is the real one, and its runners take the real way into their sandbox. `LC_ATTACKED` names what
is there to be attacked, as JSON; each process writes the outcomes to its standard error, which ends
in the worker's log. With `--old-kernel` the kernel has no Landlock. Import-light, since spawn
imports this again in every runner.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runner import entry

MARK = "attacks: "
_IO_URING_SETUP = 425
_LINK = "tests.support.supervisor_link"


def runner(connection: Connection, parent_pid: int) -> None:
    """The real entry, with an attack where a step would be."""
    importlib.import_module(_LINK)  # once contained it cannot
    sys.modules["runner.session"] = SimpleNamespace(serve=_attack_and_stand_by)  # type: ignore[assignment]
    entry.main(connection, parent_pid)


def template(connection: Connection, parent_pid: int) -> None:
    """The real template, which imports this file alone, and attacks when it would import."""
    from runner.template import serve

    importlib.import_module(_LINK)
    orders = serve.serve

    def attack_and_serve(*arguments: Any) -> int:
        report("template")
        return orders(*arguments)

    serve.__dict__["serve"] = attack_and_serve
    _real_template(connection, parent_pid, runner=runner, imports=__name__)


_real_template = entry.template


def _attack_and_stand_by(fd: int) -> int:
    report("runner")
    from tests.support.supervisor_link import SupervisorLink

    link = SupervisorLink(Connection(os.dup(fd)))
    link.ready()
    link.until_go()
    return 0


def report(role: str) -> None:
    """One line, as long as a pipe takes whole."""
    outcomes = attack(json.loads(os.environ["LC_ATTACKED"]))
    os.write(2, f"{MARK}{json.dumps({'role': role, 'outcomes': outcomes})}\n".encode())


def attack(at: dict[str, Any]) -> dict[str, str]:
    """Try everything; "done", or the name of the error."""
    outcomes = {}
    for name, one in ATTACKS.items():
        try:
            one(at)
            outcomes[name] = "done"
        except OSError as error:
            outcomes[name] = errno.errorcode[error.errno or 0]
        except ValueError:  # how Python says EPERM of a limit
            outcomes[name] = "EPERM"
    return outcomes


def _call(number: int, *arguments: Any) -> None:
    if ctypes.CDLL(None, use_errno=True).syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _libc(name: str, *arguments: Any) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _fork(at: dict[str, Any]) -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def _execute(at: dict[str, Any]) -> None:
    if (pid := os.fork()) == 0:
        with suppress(OSError):
            os.execv("/bin/true", ["true"])
        os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        raise PermissionError(errno.EACCES, "not executed")


def _connect(family: int, kind: int, address: Any) -> None:
    with socket.socket(family, kind) as link:
        link.connect(address)


def _write_and_remove(path: Path) -> None:
    path.write_text("x")
    path.unlink()


def _raw(at: dict[str, Any]) -> None:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


def _pair_to_server(at: dict[str, Any]) -> None:
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, other:
        ours.sendto(b"x", at["abstract_datagrams"].encode())


ATTACKS: dict[str, Callable[[dict[str, Any]], object]] = {
    # Other processes of the same user.
    "read environment": lambda at: Path(f"/proc/{at['pid']}/environ").read_bytes(),
    "read memory": lambda at: os.close(os.open(f"/proc/{at['pid']}/mem", os.O_RDONLY)),
    "write memory": lambda at: os.close(os.open(f"/proc/{at['pid']}/mem", os.O_RDWR)),
    "trace": lambda at: _libc("ptrace", 0x4206, at["pid"], 0, 0),  # PTRACE_SEIZE
    "signal": lambda at: os.kill(at["pid"], signal.SIGCONT),
    "signal by descriptor": lambda at: signal.pidfd_send_signal(
        os.pidfd_open(at["pid"]), signal.SIGCONT
    ),
    "signal the worker": lambda at: os.kill(os.getppid(), signal.SIGCONT),
    "limit": lambda at: resource.prlimit(at["pid"], resource.RLIMIT_CORE, (0, 0)),
    # Files.
    "read credentials": lambda at: Path(at["credentials"]).read_bytes(),
    "list secrets": lambda at: os.listdir(Path(at["credentials"]).parent),
    "read /etc": lambda at: Path("/etc/passwd").read_bytes(),
    "write models": lambda at: _write_and_remove(Path(at["models"], "evil")),
    "open models": lambda at: os.chmod(at["models"], 0o755),
    "own models": lambda at: os.chown(at["models"], os.getuid(), os.getgid()),
    "rename models": lambda at: os.rename(at["models"], at["models"]),
    "write beside": lambda at: _write_and_remove(Path(at["credentials"]).with_name("new")),
    "write shared memory": lambda at: _write_and_remove(Path(f"/dev/shm/{os.getpid()}")),
    "write the host's settings": lambda at: os.close(
        os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)
    ),
    # Sockets.
    "connect to PostgreSQL": lambda at: _connect(
        socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", at["port"])
    ),
    "connect to a path": lambda at: _connect(socket.AF_UNIX, socket.SOCK_STREAM, at["path"]),
    "connect to an abstract socket": lambda at: _connect(
        socket.AF_UNIX, socket.SOCK_STREAM, at["abstract"]
    ),
    "send through a pair": _pair_to_server,
    "listen": lambda at: socket.create_server(("127.0.0.1", 0)).close(),
    "UDP": lambda at: _connect(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", at["port"])),
    "raw": _raw,
    "netlink": lambda at: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "io_uring": lambda at: _call(_IO_URING_SETUP, 1, ctypes.create_string_buffer(120)),
    # Itself.
    "fork": _fork,
    "execute": _execute,
    # Of these the first step alone, which changes nothing where it is allowed.
    "mount": lambda at: _libc("mount", None, None, None, 0, None),
    "enter a namespace": lambda at: _libc("unshare", 0),
    "share memory": lambda at: _libc("shmget", 0x7E57, 4096, 0),
    "dump core": lambda at: resource.setrlimit(resource.RLIMIT_CORE, (1, resource.RLIM_INFINITY)),
    "open files without end": lambda at: resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048)),
}


def hold(_spec: object) -> None:
    """A model template would load here."""


def main() -> int:
    from unittest.mock import patch

    from shared.linux import landlock
    from supervisor import worker

    with patch.object(entry, "main", runner), patch.object(entry, "template", template):
        if "--old-kernel" in sys.argv:
            with patch.object(landlock, "abi", lambda: 0):
                return worker.main()
        return worker.main()


if __name__ == "__main__":
    raise SystemExit(main())
