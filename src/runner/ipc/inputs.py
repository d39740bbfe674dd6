"""Pictures that a step starts from, pulled through the pipe one at a time.

The runner requests one, the worker reads it from the object store and answers. No picture is on a
disk, and never more than one is in memory on either side. An answer must be the requested item with
the hash that GO named; the worker checks the same before it sends.
"""

import hashlib
import queue
from collections.abc import Callable

from runner.process.cancellation import Stop
from shared.protocol.frames import FrameError
from shared.protocol.messages import GenerateSpec, Input, StepSpec, UpscaleSpec, Want

# How long a stop may go unnoticed while the runner waits for an input.
_CHECK_EVERY_S = 0.05


class Inputs:
    """`pull` belongs to the thread that runs the job, `deliver` to the one that listens."""

    def __init__(self, spec: StepSpec, send: Callable[[Want], None], stop: Stop) -> None:
        listed = spec.inputs if isinstance(spec, GenerateSpec | UpscaleSpec) else []
        self._hashes = {each.item_index: each.sha256 for each in listed}
        self._send = send
        self._stop = stop
        self._requested: int | None = None
        self._arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def pull(self, item_index: int) -> bytes:
        """The file of one item, once. Waits as long as the worker takes; raises `Cancelled`."""
        self._requested = item_index
        self._send(Want(item_index=item_index))
        while True:
            self._stop.check()
            try:
                return self._arrived.get(timeout=_CHECK_EVERY_S)
            except queue.Empty:
                continue

    def deliver(self, message: Input, body: bytes) -> None:
        """Accept an answer of the worker. Raises `FrameError` for any but the requested item."""
        if message.item_index != self._requested:
            raise FrameError(f"input of item {message.item_index}, which was not requested")
        self._requested = None
        sha256 = self._hashes[message.item_index]
        if message.sha256 != sha256 or hashlib.sha256(body).hexdigest() != sha256:
            raise FrameError(f"the input of item {message.item_index} does not have its hash")
        self._arrived.put(body)
