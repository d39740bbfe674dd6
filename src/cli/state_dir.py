"""The state folder (`DF_HOME`): one stack at a time, its keys, its ports, its logs.

lock               held (flock) while a stack lives, holds its pid; the kernel frees it on death
credentials.json   0600, made once
ports.json         ports of the infrastructure, chosen once and kept while they are free; no other
                   stack of this host chooses them while this one holds the lock
children.json      which processes were started: see orphans.py
logs/              one file per part
postgres/ broker/ store/   the data of the parts
"""

import errno
import json
import os
import secrets
import socket
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli.errors import StackError
from cli.files import named
from shared.addresses import listening
from shared.linux.file_lock import FileLock, LockTaken, LockUnusable

DEFAULT = Path(".dreamforge")
ENVIRONMENT = "environment.json"
# Our own infrastructure lives in 8100..8999: below the kernel's range for outgoing connections,
# beside the API and the worker at 8001 and 8002.
_FIRST_PORT, _PORTS = 8100, 900


class InUse(StackError):
    """Another stack has the folder's lock."""

    def __init__(self, path: Path, pid: str) -> None:
        super().__init__(
            f"{path} is in use by another dreamforge (pid {pid}): stop it, or set DF_HOME to "
            "another folder"
        )
        self.pid = pid


class StateDir:
    """Paths and small files of one state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._reserved: dict[int, socket.socket] | None = None  # while we hold the lock

    def folder(self, name: str) -> Path:
        """A subfolder that only we may enter."""
        folder = self.path / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def log(self, name: str) -> Path:
        return self.folder("logs") / f"{name}.log"

    def read(self, name: str) -> dict[str, Any]:
        """A small JSON file of ours; empty where there is none or where it is damaged."""
        return self._read(name) or {}

    def _read(self, name: str) -> dict[str, Any] | None:
        """The same; None where it is damaged."""
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace the file in one step; 0600 from its first byte."""
        draft = self.path / f"{name}.new"
        write_private(draft, json.dumps(content, indent=2))
        draft.replace(self.path / name)

    def credential(self, name: str) -> str:
        """A random secret, made once. The data that is there already knows it."""
        known = self._read("credentials.json")
        if known is None:
            raise StackError(
                f"{self.path / 'credentials.json'} is damaged, and has the passwords of the data "
                f"beside it: restore the file from a backup, or move {self.path} away to begin anew"
            )
        if name not in known:
            known[name] = secrets.token_hex(20)
            self.write("credentials.json", known)
        return str(known[name])

    def port(self, name: str) -> int:
        """The port of an infrastructure part: the one it had, or another if that is taken.

        Under the lock it is ours before the part listens: making a database takes seconds.
        """
        known = {
            part: port
            for part, port in self.read("ports.json").items()
            if type(port) is int and 0 < port < 1 << 16
        }
        if name not in known or not self._may_have(known[name]):
            known[name] = self._choose(set(known.values()))
            self.write("ports.json", known)
        return int(known[name])

    def _choose(self, taken: set[int]) -> int:
        start = zlib.crc32(os.fsencode(self.path)) % _PORTS  # two folders rarely meet
        for offset in range(_PORTS):
            port = _FIRST_PORT + (start + offset) % _PORTS
            if port not in taken and self._may_have(port):
                return port
        raise StackError(f"no free port between {_FIRST_PORT} and {_FIRST_PORT + _PORTS - 1}")

    def _may_have(self, port: int) -> bool:
        if not port_is_free("127.0.0.1", port):
            return False
        if self._reserved is not None and port not in self._reserved:
            reservation = _reserve(port)
            if reservation is None:
                return False
            self._reserved[port] = reservation
        return True

    def holder(self) -> str | None:
        """The pid of the stack that runs on this folder, None when nothing does."""
        if not (self.path / "lock").exists():
            return None
        try:
            with self.lock():
                return None
        except InUse as error:
            return error.pid

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only stack on this folder, or raise InUse with the pid of the other one."""
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = FileLock(self.path / "lock")
        except LockTaken as taken:
            raise InUse(self.path, taken.holder) from None
        except (OSError, LockUnusable) as error:
            raise StackError(f"DF_HOME={self.path}: {error}") from error
        self._reserved = {}
        try:
            yield
        finally:
            for reservation in self._reserved.values():
                reservation.close()
            self._reserved = None
            lock.release()


def close_to_others(fd: int) -> None:
    """Let only the owner read and write a file that was there before, and keeps its mode else."""
    if stat.S_ISREG(os.fstat(fd).st_mode):  # never a device that a link leads to
        os.fchmod(fd, 0o600)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    with named(path):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            close_to_others(fd)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave an empty one after a rename


def _reserve(port: int) -> socket.socket | None:
    """Keep the other stacks of this host from choosing a port; None when one of them has chosen it.

    A name among the abstract Unix sockets is bound once, and is free again when its process ends.
    """
    reservation = socket.socket(socket.AF_UNIX)
    try:
        reservation.bind(f"\0dreamforge-port-{port}")
    except OSError as error:
        reservation.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return reservation


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        family, address = listening(host, port)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def reachable(host: str) -> str:
    """The address at which a server that binds `host` can be reached; of IPv6 in brackets."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not to bind
    host = host.removeprefix("[").removesuffix("]")
    host = everywhere.get(host, host)
    return f"[{host}]" if ":" in host else host
