"""Pictures of the step before, pulled through the pipe one at a time.

The runner asks, the worker reads the object store and answers; nothing lies on a disk, and never
more than one is in memory on either side. What arrives must be what was asked for and have the hash
that GO named: the worker has checked the same before it sent.
"""

from __future__ import annotations

import hashlib
import queue
from collections.abc import Callable

from runner.process.cancellation import Stop
from shared.protocol.frames import FrameError
from shared.protocol.messages import Input, InputSpec, StepSpec, UpscaleSpec, Want

# How long a stop may go unnoticed while an input is waited for.
_LOOK_EVERY_S = 0.05


class Inputs:
    """`pull` belongs to the thread that runs the job, `deliver` to the one that listens."""

    def __init__(self, spec: StepSpec, ask: Callable[[Want], None], stop: Stop) -> None:
        listed = spec.inputs if isinstance(spec, UpscaleSpec) else []
        self._specs: dict[int, InputSpec] = {each.item_index: each for each in listed}
        self._ask = ask
        self._stop = stop
        self._wanted: int | None = None
        self._arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def pull(self, item_index: int) -> bytes:
        """The file of one item, once. Waits as long as the worker takes; raises `Cancelled`."""
        self._wanted = item_index
        self._ask(Want(item_index=item_index))
        while True:
            self._stop.check()
            try:
                return self._arrived.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue

    def deliver(self, message: Input, body: bytes) -> None:
        """Take what the worker sent. Raises `FrameError` for anything but what was asked for."""
        if message.item_index != self._wanted:
            raise FrameError(f"input of item {message.item_index}, which nobody asked for")
        self._wanted = None
        asked = self._specs[message.item_index].sha256
        if message.sha256 != asked or hashlib.sha256(body).hexdigest() != asked:
            raise FrameError(f"the input of item {message.item_index} does not have its hash")
        self._arrived.put(body)
