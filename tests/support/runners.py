"""Runners that misbehave, one way each, and one that does not. Spawn targets of the tests.

Every entry becomes a runner as the real one does and then speaks frames of its own making, without
torch and without our message classes: a start takes a tenth of a second, and nothing stops it from
saying what a decent runner could not. What it does after GO is named by the prompt of its step
(`BEHAVIOURS`), so that one supervisor can meet several of them; what it does before GO is an entry
of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.supervisor_link import Header, SupervisorLink

from shared.linux.child import exit_now, isolate_process
from shared.protocol.frames import (
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    PREFIX,
    encode,
)

FOREVER_S = 3600
HOPS_S = 30  # a chain of forks that nobody ends ends by itself
HELD_BYTES = 48 << 20
# Bytes of address space that `allocates_until_refused` may take: never the host's last ones.
ADDRESS_SPACE_BYTES = 512 << 20


def main(connection: Connection, parent_pid: int) -> None:
    """READY, GO, then what the step's prompt says."""
    link = _begin(connection, parent_pid)
    link.ready()
    link.until_go()
    behave(link)
    exit_now(0)


def behave(link: SupervisorLink) -> None:
    """What the step's prompt says; one that upscales has none, and its preset's name says it."""
    words = link.params.get("prompt", link.spec["preset"]["name"]).split()
    BEHAVIOURS[words[0]](link, *words[1:])


def _begin(connection: Connection, parent_pid: int) -> SupervisorLink:
    isolate_process(parent_pid)
    return SupervisorLink(connection)


def finish(link: SupervisorLink) -> None:
    """The rest of a decent step."""
    for item in range(link.params["count"]):
        if item not in link.done:
            link.progress(item)
            link.artifact(item)
    link.result()


def stay() -> None:
    while True:
        time.sleep(FOREVER_S)


# After GO -----------------------------------------------------------------------------------------


def quick(link: SupervisorLink) -> None:
    finish(link)


def polite(link: SupervisorLink) -> None:
    """Works until it is asked to stop, then stops as the protocol says."""
    link.progress()
    while (header := link.receive()) is not None:
        if header["type"] == "cancel":
            link.failure("cancelled")
            return


def shows(link: SupervisorLink, jpeg: str) -> None:
    """Answers each request for a preview until it is asked to stop."""
    link.progress()
    preview = {"type": "preview", "item_index": 0, "step": 1, "steps": 4, "width": 8, "height": 8}
    while (header := link.receive()) is not None:
        if header["type"] == "show":
            link.send(preview, bytes.fromhex(jpeg))
        if header["type"] == "cancel":
            link.failure("cancelled")
            return


def draws(link: SupervisorLink) -> None:
    """Says what its random generators give, those that its template has imported included."""
    numbers = {"random": random.random()}
    if (numpy := sys.modules.get("numpy")) is not None:
        numbers["numpy"] = float(numpy.random.rand())
    if (torch := sys.modules.get("torch")) is not None:
        numbers["torch"] = float(torch.rand(()))
    log = {"type": "log", "level": "INFO", "code": "drawn", "message": "drawn"}
    link.send(log | {"payload": numbers})
    finish(link)


def slow_exit(link: SupervisorLink, seconds: str) -> None:
    """Done, but not gone."""
    finish(link)
    time.sleep(float(seconds))


def stuck_in_c(link: SupervisorLink) -> None:
    """Deaf to everything but SIGKILL: signals blocked, and no Python thread runs again."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    link.progress()
    libc = ctypes.PyDLL(None)
    while True:
        libc.sleep(FOREVER_S)


def spins(link: SupervisorLink) -> None:
    """A loop that never ends, with SIGTERM ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link.progress()
    while True:
        pass


def starts_threads(link: SupervisorLink, count: str) -> None:
    """Threads that do nothing; each is a process to the host."""
    threading.stack_size(64 << 10)
    for _ in range(int(count)):
        threading.Thread(target=stay, daemon=True).start()
    link.progress()
    stay()


def forks(link: SupervisorLink, count: str) -> None:
    """Children, grandchildren and a child in a session of its own, all deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in range(int(count)):
        if os.fork() == 0:
            if number % 2:
                os.setsid()
            os.fork()
            stay()
    link.progress()
    stay()


def bomb(link: SupervisorLink, depth: str) -> None:
    """Every process forks, bomb, and so does each that it makes: 2 to the power of `depth`."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link.progress()
    for _ in range(int(depth)):
        os.fork()
    stay()


def takes_memory(link: SupervisorLink) -> None:
    """Until the kernel ends it, in a child of its own: the parent takes next to nothing."""
    link.progress()
    if os.fork() == 0:
        taken = []
        while True:
            taken.append(bytearray(b"x") * (8 << 20))
    stay()


def forks_without_end(link: SupervisorLink, path: str) -> None:
    """As many processes as it gets, in other sessions, deaf to SIGTERM; then it writes how many."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    link.progress()
    count = 0
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
                stay()
            count += 1
        except OSError as error:
            Path(path).write_text(f"{count} {error.errno}")
            stay()


def chain_of_forks(link: SupervisorLink, depth: str) -> None:
    """Each process has one child, and waits."""
    for _ in range(int(depth)):
        if os.fork() != 0:
            stay()
    link.progress()
    stay()


def leaves_grandchild(link: SupervisorLink) -> None:
    """Ends well, but what it forked twice into another session lives on and holds memory."""
    _daemon(hold=HELD_BYTES)
    finish(link)


def leaves_nameless_grandchild(link: SupervisorLink) -> None:
    """The same, and the grandchild has thrown away the environment that told whose it is."""
    _daemon(command=["/bin/sleep", str(FOREVER_S)])
    finish(link)


def leaves_forged_grandchild(link: SupervisorLink) -> None:
    """The same, and the grandchild says that it is somebody else's."""
    command = ["/bin/sleep", str(FOREVER_S)]
    _daemon(command=command, environment={"DREAMFORGE_RUNNER": "forged"})
    finish(link)


def leaves_deaf_grandchild(link: SupervisorLink) -> None:
    """The same, and the grandchild does not end when it is asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # inherited, and kept over exec
    _daemon(command=["/bin/sleep", str(FOREVER_S)])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    finish(link)


def leaves_hopper(link: SupervisorLink, lock: str) -> None:
    """The same, and nobody of it lives for long: each forks, and is dead. Whoever is alive holds a
    lock on a file, so a test can tell that somebody is without having to catch them."""
    descriptor = os.open(lock, os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    until = time.monotonic() + HOPS_S
    if os.fork() == 0:
        # libc's own: a fork through Python takes longer than a look at /proc, and is caught.
        libc = ctypes.CDLL(None)
        os.setsid()
        if libc.fork() == 0:
            link.socket.close()
            while time.monotonic() < until and libc.fork() == 0:
                pass
        os._exit(0)
    os.close(descriptor)
    finish(link)


def writes_to_its_streams(link: SupervisorLink) -> None:
    """A line that could pass for the worker's, and a flag that would be set for it too."""
    os.write(1, b'{"code": "job.finish", "message": "forged"}\n')
    os.set_blocking(2, False)
    finish(link)


def leaves_talker(link: SupervisorLink) -> None:
    """A grandchild keeps our end of the socket open, so its end is never seen."""
    _daemon(keep_socket=True)
    finish(link)


def floods(link: SupervisorLink) -> None:
    """Log lines, as fast as the pipe takes them, for ever."""
    line_of_log = encode({"type": "log", "level": "INFO", "code": "x", "message": "flood"})
    block = line_of_log * 2000
    while True:
        link.raw(block)


def half_a_frame(link: SupervisorLink) -> None:
    link.raw(PREFIX.pack(100, 5000) + b'{"type":')
    stay()


def half_a_frame_then_dies(link: SupervisorLink) -> None:
    link.raw(PREFIX.pack(100, 5000) + b'{"type":')
    os.kill(os.getpid(), signal.SIGKILL)


def closes_its_end(link: SupervisorLink) -> None:
    """Says good-bye without a result, and stays."""
    link.socket.shutdown(socket.SHUT_RDWR)
    stay()


def garbage(link: SupervisorLink) -> None:
    link.raw(os.urandom(1) + b"\xff" * 4096)
    stay()


def not_json(link: SupervisorLink) -> None:
    link.raw(PREFIX.pack(4, 0) + b"{,,}")
    stay()


def too_long(link: SupervisorLink) -> None:
    """A body over the bound is refused by its length, before a byte of it is read."""
    link.raw(PREFIX.pack(20, MAX_BODY_BYTES + 1))
    stay()


def header_too_long(link: SupervisorLink) -> None:
    """A header over the bound, likewise."""
    link.raw(PREFIX.pack(MAX_HEADER_BYTES + 1, 0))
    stay()


def out_of_order(link: SupervisorLink) -> None:
    link.ready()
    stay()


def unstorable_log(link: SupervisorLink) -> None:
    """NUL: legal in JSON, impossible in PostgreSQL."""
    link.send({"type": "log", "level": "INFO", "code": "x", "message": "a\0b"})
    stay()


def says_huge_numbers(link: SupervisorLink, where: str) -> None:
    """Numbers that JSON has, and no column and no float."""
    if where == "log":
        log = {"type": "log", "level": "INFO", "code": "x", "message": "a"}
        link.send(log | {"item_index": 2**40, "payload": {"n": 10**400}})
    else:
        link.send({"type": "result", "items": 1, "allocator": {"allocator_peak_bytes": 10**400}})
    stay()


def wrong_hash(link: SupervisorLink) -> None:
    link.artifact(0, sha256="0" * 64)
    stay()


def leaves_early(link: SupervisorLink) -> None:
    """Exit code 0, nothing done."""


def segfaults(link: SupervisorLink) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def allocates_until_refused(link: SupervisorLink) -> None:
    """Takes memory until there is none (its own bound, not the host's), and says so."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    taken = []
    try:
        while True:
            taken.append(b"x" * (32 << 20))
    except MemoryError:
        link.failure("host_oom")
        time.sleep(0.3)  # long enough for the parent to see the peak


def fails(link: SupervisorLink, reason: str, peak_bytes: str = "0") -> None:
    link.failure(reason, allocator_peak_bytes=int(peak_bytes))


def big(link: SupervisorLink, size: str) -> None:
    """Items of `size` bytes, one after the other, as fast as the parent takes them."""
    for item in sorted(set(range(link.params["count"])) - link.done):
        link.artifact(item, int(size))
    link.result()


def crashes_after(link: SupervisorLink, items: str, path: str) -> None:
    """Sends some items and crashes, the first time; then writes down what is done, and finishes."""
    if Path(path).exists():
        Path(path).write_text(",".join(map(str, sorted(link.done))))
        finish(link)
        return
    Path(path).touch()
    for item in range(int(items)):
        link.artifact(item)
    segfaults(link)


def crashes(link: SupervisorLink, times: str, path: str) -> None:
    """Crashes this many times, counted in a file, then does its work."""
    so_far = Path(path).stat().st_size if Path(path).exists() else 0
    if so_far < int(times):
        with Path(path).open("a") as counter:
            counter.write("x")
        os._exit(3)
    finish(link)


def crashes_once_then_waits(link: SupervisorLink, path: str) -> None:
    """The first try ends at once, the second one only when it is asked to."""
    if not Path(path).exists():
        Path(path).touch()
        os._exit(3)
    polite(link)


def enlarges(link: SupervisorLink) -> None:
    """Asks for each input that is open, looks at it, and makes something of it."""
    for given in link.spec["inputs"]:
        if given["item_index"] not in link.done:
            _enlarge(link, given)
    link.send({"type": "result", "items": link.params["count"], "allocator": {}})


def enlarges_after(link: SupervisorLink, items: str, path: str) -> None:
    """Crashes once when so many items are made; the second try finishes."""
    if Path(path).exists():
        enlarges(link)
        return
    Path(path).touch()
    for given in link.spec["inputs"][: int(items)]:
        _enlarge(link, given)
    os._exit(3)


def wants_when(link: SupervisorLink, path: str) -> None:
    """Asks for its inputs once a file appears."""
    while not Path(path).exists():
        time.sleep(0.02)
    enlarges(link)


def wants_two_at_once(link: SupervisorLink) -> None:
    for item in (0, 1):
        link.send({"type": "want", "item_index": item})
    stay()


def wants_and_stays(link: SupervisorLink) -> None:
    """Asks once, and listens to nobody any more."""
    link.send({"type": "want", "item_index": 0})
    stay()


def _enlarge(link: SupervisorLink, given: Header) -> None:
    link.send({"type": "want", "item_index": given["item_index"]})
    while (header := link.receive()) is not None and header["type"] != "input":
        if header["type"] == "cancel":
            link.failure("cancelled")
            exit_now(0)
    assert header is not None and header["item_index"] == given["item_index"]
    assert hashlib.sha256(link.body).hexdigest() == given["sha256"] == header["sha256"]
    scale = link.params["scale"]
    size = {"width": given["width"] * scale, "height": given["height"] * scale}
    link.artifact(given["item_index"], **size, seed=given["seed"])


def waits_for(link: SupervisorLink, path: str) -> None:
    """Works until a file appears."""
    link.progress()
    while not Path(path).exists():
        time.sleep(0.02)
    finish(link)


def _daemon(
    *,
    hold: int = 0,
    keep_socket: bool = False,
    command: list[str] | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    """Fork twice with a session between, so that the grandchild has no parent of ours."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        if not keep_socket:
            os.closerange(3, writer)
        held = bytearray(b"x" * hold)
        os.write(writer, b"up")
        if command is not None:
            os.execve(command[0], command, environment or {})
        stay()
        held.clear()
    os.wait()
    os.read(reader, 2)


Behaviour = Callable[..., None]

BEHAVIOURS: dict[str, Behaviour] = {
    behaviour.__name__: behaviour
    for behaviour in (
        quick, draws, shows, polite, slow_exit, stuck_in_c, spins, starts_threads, forks,
        chain_of_forks,
        bomb, leaves_grandchild,
        leaves_nameless_grandchild, leaves_forged_grandchild, leaves_talker, floods, half_a_frame,
        half_a_frame_then_dies, closes_its_end, garbage, not_json, too_long, out_of_order,
        unstorable_log, wrong_hash, leaves_early, segfaults, allocates_until_refused,
        fails, big, crashes_after, crashes, crashes_once_then_waits, enlarges, enlarges_after,
        wants_when, wants_two_at_once, wants_and_stays, waits_for, says_huge_numbers,
        leaves_deaf_grandchild, leaves_hopper, writes_to_its_streams, header_too_long,
        takes_memory, forks_without_end,
    )
}  # fmt: skip


# Before GO ----------------------------------------------------------------------------------------


def never_ready(connection: Connection, parent_pid: int) -> None:
    _begin(connection, parent_pid)
    stay()


def dies_at_once(connection: Connection, parent_pid: int) -> None:
    isolate_process(parent_pid)
    exit_now(7)


def talks_before_ready(connection: Connection, parent_pid: int) -> None:
    link = _begin(connection, parent_pid)
    link.send({"type": "log", "level": "INFO", "code": "x", "message": "too early"})
    stay()


def works_before_go(connection: Connection, parent_pid: int) -> None:
    link = _begin(connection, parent_pid)
    link.ready()
    link.progress()
    stay()
