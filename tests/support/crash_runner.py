"""A runner that does a decent step in a tenth of a second, and bears witness.

It speaks the whole protocol without torch: it arms the real dead-man timer, obeys leases and
cancels, fetches the pictures of the step before, and can be held in the middle of an item and after
its result. For each step it holds a lock of the kernel's for as long as it lives, so two runners of
one step at the same time are found out by somebody who asked neither our database nor our worker.
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
from tests.support.runners import Line

from runner.process.lease_timer import arm_lease_timer
from shared.linux.child import exit_now, isolate_process

OVERLAPS = "overlaps"
HELD = "held"


def main(connection: Connection, parent_pid: int) -> None:
    isolate_process(parent_pid)
    line = Line(connection)
    line.ready()
    go = line.hear()
    if go is None or go["type"] != "go":
        exit_now(0)
    else:
        Step(line, go).run()
        exit_now(0)


class Step:
    def __init__(self, line: Line, go: dict[str, Any]) -> None:
        self._line = line
        self._spec = go["spec"]
        self._params = go["spec"]["params"]
        self._folder = Path(os.environ["TMPDIR"])
        self._gates = Gates(self._folder)
        self._inputs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        arm_lease_timer(go["dies_at"])
        self._bear_witness()
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self) -> None:
        done = set(self._spec["done_items"])
        for item in (i for i in range(self._params["count"]) if i not in done):
            self._item(item)
        self._line.say({"type": "result", "items": 1, "allocator": {}})
        self._gates.come_blocking("result")

    def _item(self, item: int) -> None:
        size_and_seed = self._asked_for(item)
        self._say_progress(item, 1)
        self._gates.come_blocking("mid item")
        self._say_progress(item, 2)
        body = zlib.compress(f"{self._spec['step_id']} {item}".encode() * 50)
        self._line.say(
            {
                "type": "artifact",
                "item_index": item,
                "format": self._params["format"],
                "sha256": sha256(body).hexdigest(),
                **size_and_seed,
            },
            body,
        )

    def _asked_for(self, item: int) -> dict[str, int]:
        """Size and seed that the item must have; an upscale fetches its input first."""
        params = self._params
        if self._spec["type"] == "generate":
            return {
                "width": params["width"],
                "height": params["height"],
                "seed": params["seed"] + item,
            }
        self._line.say({"type": "want", "item_index": item})
        self._inputs.get()
        before, scale = self._spec["inputs"][item], params["scale"]
        return {
            "width": before["width"] * scale,
            "height": before["height"] * scale,
            "seed": before["seed"],
        }

    def _say_progress(self, item: int, step: int) -> None:
        stage = {"type": "progress", "stage": "sampling", "item_index": item}
        self._line.say(stage | {"step": step, "steps": 2})

    def _listen(self) -> None:
        while (header := self._line.hear()) is not None:
            match header["type"]:
                case "lease":
                    arm_lease_timer(header["dies_at"])
                case "input":
                    self._inputs.put(header)
                case "cancel":
                    os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _bear_witness(self) -> None:
        """Hold this step's lock until death, whatever kind of death it is."""
        folder = self._folder / HELD
        folder.mkdir(exist_ok=True)
        held = os.open(folder / self._spec["step_id"], os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with (self._folder / OVERLAPS).open("a") as overlaps:
                overlaps.write(f"{self._spec['step_id']}\n")
