"""What a runner may say when. Sans-IO: frames in, checked messages out, `FrameError` for a liar.

A runner executes other people's models, so nothing it says is taken on trust: READY comes first
and once, an artifact is one of the items that were asked for, comes once, has the format, the size
and the seed that were asked for and the hash that it claims; after RESULT there is silence.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from shared.frames import Frame, FrameError
from shared.messages import (
    MAX_SEED,
    Artifact,
    Failure,
    FromRunner,
    GenerateParams,
    Progress,
    Ready,
    Result,
    parse_from_runner,
)

# A payload of ours has three levels; JSON's own parser would follow hundreds.
MAX_DEPTH = 16


class Conversation:
    """The parent's side of one step's talk with its runner."""

    def __init__(self, params: GenerateParams, *, done_items: frozenset[int]) -> None:
        self._params = params
        self._items = range(params.count)
        self._open = set(range(params.count)) - done_items
        self._went = self._ready = self._over = False

    def go(self) -> None:
        """GO was sent; from now on the runner may speak of its work."""
        self._went = True

    def accept(self, frame: Frame) -> FromRunner:
        """Return the message in `frame`; raise `FrameError` when it may not be said now."""
        check_storable(frame.header)
        message = parse_from_runner(frame.header)
        if self._over:
            raise FrameError(f"{message.type} after the end")
        if frame.body and not isinstance(message, Artifact):
            raise FrameError(f"{message.type} with a body of {len(frame.body)} bytes")
        if isinstance(message, Ready) == self._ready and not isinstance(message, Failure):
            raise FrameError(f"{message.type} {'again' if self._ready else 'before ready'}")
        match message:
            case Ready():
                self._ready = True
            case Artifact():
                self._check_artifact(message, frame.body)
            case Result():
                self._check_result(message)
            case Failure():
                self._over = True
            case Progress():
                self._check_progress(message)
        return message

    def _check_progress(self, message: Progress) -> None:
        if not self._went:
            raise FrameError("progress before go")
        if message.step > message.steps:
            raise FrameError(f"progress step {message.step} of {message.steps}")
        if message.item_index is not None and message.item_index not in self._items:
            raise FrameError(f"progress of item {message.item_index} of {len(self._items)}")

    def _check_artifact(self, message: Artifact, body: bytes) -> None:
        params = self._params
        if not self._went:
            raise FrameError("artifact before go")
        if message.item_index not in self._open:
            raise FrameError(f"artifact for item {message.item_index}, which is not open")
        if (message.format, message.width, message.height) != (
            params.format,
            params.width,
            params.height,
        ):
            raise FrameError(f"artifact is a {message.width}x{message.height} {message.format}")
        if params.seed is not None:
            expected = (params.seed + message.item_index) % MAX_SEED
            if message.seed != expected:
                raise FrameError(f"artifact made with seed {message.seed}, not {expected}")
        if hashlib.sha256(body).hexdigest() != message.sha256:
            raise FrameError("the artifact's bytes do not have the hash that it claims")
        self._open.discard(message.item_index)

    def _check_result(self, message: Result) -> None:
        if not self._went:
            raise FrameError("result before go")
        if self._open:
            raise FrameError(f"result with {len(self._open)} items missing")
        self._over = True


def check_storable(header: dict[str, Any]) -> None:
    """Raise `FrameError` for what JSON can say and PostgreSQL cannot keep.

    A log line becomes an event. One with a NUL, half a surrogate pair or a NaN in it would fail
    the transaction, again and again, and with it the worker.
    """
    todo: list[tuple[Any, int]] = [(header, 0)]
    while todo:
        value, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise FrameError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            todo += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            todo += [(part, depth + 1) for part in value]
        elif isinstance(value, str):
            _check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise FrameError(f"{value} is not a number")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise FrameError("a text with NUL in it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FrameError("a text that is not Unicode") from None
