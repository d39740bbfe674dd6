"""Hosts of a network, on one machine: each is a network namespace, and a wire connects them.

Every namespace has a TUN device. What its processes send comes out of the device's file, packet by
packet, and the wire writes it into the file of the receiver: later, or never. So each direction of
each connection has a delay, a loss and a cut of its own, on any kernel. `tc netem` can delay and
lose as well, but few small kernels have it, and for a cut in one direction a packet filter would be
needed besides.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import heapq
import itertools
import os
import random
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

PREFIX = "dreamforge-hosts-"
NAMESPACES = Path("/run/netns")
TUN = Path("/dev/net/tun")
# linux/if_tun.h, linux/sched.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_PACKET_BYTES = 1 << 16
_LOOK_EVERY_S = 0.1
# The receiver's device is down, or its queue is full: a network loses such a packet too.
_LOST = {errno.EIO, errno.ENOBUFS, errno.EAGAIN}


@dataclass(slots=True)
class Direction:
    """What happens to packets of one host to another."""

    delay_s: float = 0.0
    loss: float = 0.0
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    address: str
    namespace: str

    @property
    def path(self) -> Path:
        return NAMESPACES / self.namespace

    @property
    def prefix(self) -> list[str]:
        """The start of a command line that runs on this host."""
        return ["nsenter", f"--net={self.path}"]

    def enter(self) -> None:
        """Move this thread, and with it all that it starts, to the host."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"setns: {os.strerror(number)}")
        finally:
            os.close(fd)

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on this host, in a thread of its own."""
        with ThreadPoolExecutor(1, initializer=self.enter) as pool:
            return pool.submit(work).result()


@dataclass(slots=True)
class Wire:
    """Carries packets between the hosts until `stop`."""

    random: random.Random
    lost: int = 0
    carried: int = 0
    _files: dict[bytes, int] = field(default_factory=dict)
    _names: dict[bytes, str] = field(default_factory=dict)
    _directions: dict[tuple[str, str], Direction] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def attach(self, host: Host, file: int) -> None:
        os.set_blocking(file, False)
        address = socket.inet_aton(host.address)
        self._files[address], self._names[address] = file, host.name

    def direction(self, source: str, target: str) -> Direction:
        return self._directions.setdefault((source, target), Direction())

    def heal(self) -> None:
        """Every packet arrives, at once."""
        self._directions.clear()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        numbers, poll = itertools.count(), select.poll()
        for file in self._files.values():
            poll.register(file, select.POLLIN)
        while not self._stopped.is_set():
            now = time.monotonic()
            pause_s = min(_LOOK_EVERY_S, max(0.0, waiting[0][0] - now)) if waiting else 1.0
            for file, _ in poll.poll(min(pause_s, _LOOK_EVERY_S) * 1000):
                for packet in _read(file):
                    if (sent := self._send(packet)) is not None:
                        heapq.heappush(waiting, (sent[0], next(numbers), sent[1], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, file, packet = heapq.heappop(waiting)
                self._deliver(file, packet)

    def _send(self, packet: bytes) -> tuple[float, int] | None:
        """When the packet arrives, and in which file; None for one that is lost."""
        source, target = packet[12:16], packet[16:20]
        if packet[0] >> 4 != 4 or source not in self._files or target not in self._files:
            return None  # neighbour discovery and the like
        direction = self.direction(self._names[source], self._names[target])
        if direction.is_cut or self.random.random() < direction.loss:
            self.lost += 1
            return None
        return time.monotonic() + direction.delay_s, self._files[target]

    def _deliver(self, file: int, packet: bytes) -> None:
        try:
            os.write(file, packet)
            self.carried += 1
        except OSError as error:
            if error.errno not in _LOST:
                raise
            self.lost += 1


def _read(file: int) -> Iterator[bytes]:
    for _ in range(64):
        try:
            yield os.read(file, _PACKET_BYTES)
        except BlockingIOError:
            return


@contextmanager
def network(names: list[str], seed: int) -> Iterator[tuple[dict[str, Host], Wire]]:
    """Namespaces of these names and a running wire; all is gone afterwards."""
    remove_leftovers()
    hosts = {
        name: Host(name, f"10.77.0.{number}", f"{PREFIX}{os.getpid()}-{name}")
        for number, name in enumerate(names, start=1)
    }
    wire, files = Wire(random=random.Random(seed)), list[int]()
    thread = threading.Thread(target=wire.run)
    try:
        for host in hosts.values():
            files.append(_make(host))
            wire.attach(host, files[-1])
        thread.start()
        yield hosts, wire
    finally:
        wire.stop()
        if thread.ident is not None:
            thread.join()
        for file in files:
            os.close(file)
        for host in hosts.values():
            remove(host.namespace)


def _make(host: Host) -> int:
    """The namespace with its device; the file of the device."""
    _ip("netns", "add", host.namespace)
    device = f"df{os.getpid()}{host.address.rpartition('.')[2]}"
    file = os.open(TUN, os.O_RDWR)
    try:
        request = struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI)
        fcntl.ioctl(file, _TUNSETIFF, request)
        _ip("link", "set", device, "netns", host.namespace)
        inside = ("-n", host.namespace)
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "address", "add", f"{host.address}/24", "dev", device)
        _ip(*inside, "link", "set", device, "up")
    except BaseException:
        os.close(file)
        raise
    return file


def remove_leftovers() -> None:
    """Remove what a run left behind that was killed itself."""
    for path in NAMESPACES.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX).partition("-")[0]
        if not psutil.pid_exists(int(pid)):
            remove(path.name)


def remove(namespace: str) -> None:
    """End the processes of a namespace of ours, and the namespace."""
    if not (NAMESPACES / namespace).exists():
        return
    for pid in _ip("netns", "pids", namespace).split():
        if int(pid) != os.getpid():
            with suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
