"""A runner that completes a step in a tenth of a second, and proves that it was the only one.

It speaks the whole protocol without torch: it arms the real lease timer, obeys leases and
cancels, fetches the pictures of the step before, and can be held in the middle of an item and after
its result. For each step it holds a kernel lock for as long as it lives. So a test finds two
runners of one step without asking our database or our worker.
"""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import threading
import zlib
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support.gates import Gates
from tests.support.supervisor_link import SupervisorLink

from runner import entry
from runner.process.lease_timer import LeaseTimer
from shared.linux.child import exit_now, isolate_process

OVERLAPS = "overlaps"
# A second runner of a step whose first one stands still, with all processes of its host.
FROZEN = "frozen"
LOCKS = "held"


def main(connection: Connection, parent_pid: int) -> None:
    isolate_process(parent_pid)
    link = SupervisorLink(connection)
    link.ready()
    go = link.receive()
    if go is None or go["type"] != "go":
        exit_now(0)
    else:
        Step(link, go).run()
        exit_now(0)


def template(connection: Connection, parent_pid: int) -> None:
    """A template of such runners."""
    entry.template(connection, parent_pid, runner=main, imports="tests.support.template_imports")


class Step:
    def __init__(self, link: SupervisorLink, go: dict[str, Any]) -> None:
        self._link = link
        self._spec = go["spec"]
        self._params = go["spec"]["params"]
        self._folder = Path(os.environ["TMPDIR"])
        self._gates = Gates(self._folder)
        self._inputs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._timer = LeaseTimer()
        self._timer.arm(go["dies_at"])
        self._lock_step()
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self) -> None:
        self._fetch_inputs()
        done = set(self._spec["done_items"])
        for item in (i for i in range(self._params["count"]) if i not in done):
            self._item(item)
        self._link.send({"type": "result", "items": 1, "allocator": {}})
        self._gates.wait_at_blocking("result")

    def _fetch_inputs(self) -> None:
        """The pictures that a first step starts from, before its items."""
        if self._spec["type"] != "generate":
            return
        for source in self._spec["inputs"]:
            self._link.send({"type": "want", "item_index": source["item_index"]})
            assert self._inputs.get()["sha256"] == source["sha256"]
            self._gates.wait_at_blocking("input")

    def _item(self, item: int) -> None:
        size_and_seed = self._size_and_seed(item)
        self._send_progress(item, 1)
        self._gates.wait_at_blocking("mid item")
        self._send_progress(item, 2)
        body = zlib.compress(f"{self._spec['step_id']} {item}".encode() * 50)
        self._link.send(
            {
                "type": "artifact",
                "item_index": item,
                "format": self._params["format"],
                "sha256": sha256(body).hexdigest(),
                **size_and_seed,
            },
            body,
        )

    def _size_and_seed(self, item: int) -> dict[str, int]:
        """Size and seed that the item must have; an upscale fetches its input first."""
        params = self._params
        if self._spec["type"] == "generate":
            return {
                "width": params["width"],
                "height": params["height"],
                "seed": params["seed"] + item,
            }
        self._link.send({"type": "want", "item_index": item})
        self._inputs.get()
        before, scale = self._spec["inputs"][item], params["scale"]
        return {
            "width": before["width"] * scale,
            "height": before["height"] * scale,
            "seed": before["seed"],
        }

    def _send_progress(self, item: int, step: int) -> None:
        stage = {"type": "progress", "stage": "sampling", "item_index": item}
        self._link.send(stage | {"step": step, "steps": 2})

    def _listen(self) -> None:
        while (header := self._link.receive()) is not None:
            match header["type"]:
                case "lease":
                    self._timer.arm(header["dies_at"])
                case "input":
                    self._inputs.put(header)
                case "cancel":
                    os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _lock_step(self) -> None:
        """Hold this step's lock until the process ends, however it ends."""
        folder = self._folder / LOCKS
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / self._spec["step_id"], os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note = FROZEN if _is_stopped(lock) else OVERLAPS
            with (self._folder / note).open("a") as notes:
                notes.write(f"{self._spec['step_id']}\n")


def _is_stopped(lock: int) -> bool:
    """Whether the process that holds the lock does not run: its whole host has been stopped.

    Its timer kills it before it runs again; who stops a host checks that.
    """
    pid = holder_of(os.fstat(lock).st_ino)
    if pid is None:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return stat.rpartition(")")[2].split()[0] == "T"


def holder_of(inode: int) -> int | None:
    """The process that holds the lock of a file."""
    for line in Path("/proc/locks").read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if "->" not in fields and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    return None
