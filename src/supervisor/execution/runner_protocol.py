"""Which message a runner may send when: frames in, checked messages out, no input or output.

A runner executes other people's models, so every message is checked: READY comes first and once;
the runner requests an input once, one at a time, and none of an item that is done; a preview comes
only when it was asked for, and once; an artifact is one of the requested items, comes once, has the
requested format, size and seed, and the hash that it claims; after RESULT nothing comes. Everything
else is a `FrameError`.
"""

import hashlib
import math
from typing import Any, assert_never

from shared.limits import MAX_SEED
from shared.protocol.frames import Frame, FrameError
from shared.protocol.messages import (
    INTERFACE,
    MAX_PREVIEW_BYTES,
    Artifact,
    Failure,
    FromRunner,
    GenerateSpec,
    Preview,
    Progress,
    Ready,
    Result,
    RunSpec,
    UpscaleSpec,
    Want,
    parse_from_runner,
)

# Our own payloads have three levels; JSON's parser would follow hundreds.
MAX_DEPTH = 16
_JPEG_START = b"\xff\xd8\xff"


class RunnerProtocol:
    """The parent's side of the protocol, for one step."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self._items = range(spec.params.count)
        self._open = set(self._items) - set(spec.done_items)
        self._requestable = requestable_inputs(spec)
        self._requested_item: int | None = None
        self._go_sent = self._ready = self._ended = False
        self._preview_asked = False

    def go_sent(self) -> None:
        """GO was sent; from now on the runner may report its work."""
        self._go_sent = True

    def ask_preview(self) -> bool:
        """Whether a preview may be asked for now; then it is to be asked for at once."""
        may = self._go_sent and not (self._ended or self._preview_asked)
        self._preview_asked = self._preview_asked or may
        return may

    def input_sent(self) -> None:
        """The requested input was sent; the runner may request the next one."""
        self._requested_item = None

    def accept(self, frame: Frame) -> FromRunner:
        """Return the message in `frame`; raise `FrameError` when it may not come now."""
        check_storable(frame.header)
        message = parse_from_runner(frame.header)
        if self._ended:
            raise FrameError(f"{message.type} after the end")
        if frame.body and not isinstance(message, (Preview, Artifact)):
            raise FrameError(f"{message.type} with a body of {len(frame.body)} bytes")
        if isinstance(message, Ready) == self._ready and not isinstance(message, Failure):
            raise FrameError(f"{message.type} {'again' if self._ready else 'before ready'}")
        if not self._go_sent and isinstance(message, (Progress, Want, Preview, Artifact, Result)):
            raise FrameError(f"{message.type} before go")
        match message:
            case Ready():
                self._check_interface(message)
                self._ready = True
            case Want():
                self._check_want(message)
            case Preview():
                self._check_preview(message, frame.body)
            case Artifact():
                self._check_artifact(message, frame.body)
            case Result():
                self._check_result(message)
            case Failure():
                self._ended = True
            case Progress():
                self._check_progress(message)
        return message

    def _check_interface(self, message: Ready) -> None:
        if message.interface != INTERFACE:
            raise FrameError(
                f"a runner of interface {message.interface}, this worker speaks {INTERFACE}"
            )

    def _check_progress(self, message: Progress) -> None:
        if message.step > message.steps:
            raise FrameError(f"progress step {message.step} of {message.steps}")
        if message.item_index is not None and message.item_index not in self._items:
            raise FrameError(f"progress of item {message.item_index} of {len(self._items)}")

    def _check_want(self, message: Want) -> None:
        if self._requested_item is not None:
            raise FrameError(f"a second want while item {self._requested_item} is on its way")
        if message.item_index not in self._requestable:
            raise FrameError(f"want of item {message.item_index}, which there is not to be had")
        self._requestable.discard(message.item_index)
        self._requested_item = message.item_index

    def _check_preview(self, message: Preview, body: bytes) -> None:
        if not self._preview_asked:
            raise FrameError("a preview that the worker did not ask for")
        if message.item_index not in self._open or message.step > message.steps:
            raise FrameError(f"a preview of item {message.item_index}, which is not being made")
        if not (_JPEG_START == body[:3] and len(body) <= MAX_PREVIEW_BYTES):
            raise FrameError(f"a preview that is no small JPEG: {len(body)} bytes")
        self._preview_asked = False

    def _check_artifact(self, message: Artifact, body: bytes) -> None:
        if message.item_index not in self._open:
            raise FrameError(f"artifact for item {message.item_index}, which is not open")
        size, seed = expected_image(self.spec, message.item_index)
        if (message.format, message.width, message.height) != (self.spec.params.format, *size):
            raise FrameError(f"artifact is a {message.width}x{message.height} {message.format}")
        if seed is not None and message.seed != seed:
            raise FrameError(f"artifact made with seed {message.seed}, not {seed}")
        if hashlib.sha256(body).hexdigest() != message.sha256:
            raise FrameError("the artifact's bytes do not have the hash that it claims")
        self._open.discard(message.item_index)

    def _check_result(self, message: Result) -> None:
        if self._open:
            raise FrameError(f"result with {len(self._open)} items missing")
        self._ended = True


def requestable_inputs(spec: RunSpec) -> set[int]:
    """The inputs that a runner may request: of items that are not done, or all it starts from."""
    match spec:
        case GenerateSpec():
            return set(range(len(spec.inputs)))
        case UpscaleSpec():
            return set(range(spec.params.count)) - set(spec.done_items)
        case _:
            assert_never(spec)


def expected_image(spec: RunSpec, item: int) -> tuple[tuple[int, int], int | None]:
    """Size in pixels and seed of one finished item; None where the runner draws the seed."""
    match spec:
        case GenerateSpec(params=params):
            seed = None if params.seed is None else (params.seed + item) % MAX_SEED
            return (params.width, params.height), seed
        case UpscaleSpec(params=params):
            source = spec.inputs[item]
            return (source.width * params.scale, source.height * params.scale), source.seed
        case _:
            assert_never(spec)


def check_storable(header: dict[str, Any]) -> None:
    """Raise `FrameError` for what JSON can hold and PostgreSQL, or a metric, cannot.

    A log line becomes an event. A NUL, half a surrogate pair or a NaN in it would fail the
    transaction again and again; a number of four hundred digits is no float.
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
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise FrameError("a whole number of more than 64 bits")


def _check_text(text: str) -> None:
    if "\0" in text:
        raise FrameError("a text with NUL in it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FrameError("a text that is not Unicode") from None
