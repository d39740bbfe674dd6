"""Encode and send one picture while the next one is made.

One thread, with one picture at most: `submit` waits for the picture before. So memory holds one
picture more than without, and the sampler is never more than one ahead. zlib and SHA-256 release
the interpreter's lock, so both threads really run.

The end of the block waits for the picture that is on its way, also when the step was cancelled: a
finished item stays retrievable.
"""

import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from PIL.Image import Image

from runner.images.encode import encode_image
from runner.images.metadata import EmbeddedMetadata
from runner.ipc.channel import Emit
from shared.protocol.messages import Artifact, OutputParams


class ImageNotSent(Exception):
    """A sampled picture could not be encoded or sent; `__cause__` says why."""

    def __init__(self, item_index: int) -> None:
        super().__init__(f"item {item_index} could not be finished")
        self.item_index = item_index


class ImageSender:
    """Use as a context manager; `submit` and the end of the block raise `ImageNotSent`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish")
        self._last: tuple[int, Future[None]] | None = None

    def __enter__(self) -> Self:
        return self

    def submit(self, item_index: int, finish: Callable[[], None]) -> None:
        """Start `finish` for one picture; waits for the one before."""
        self._settle()
        self._last = item_index, self._thread.submit(finish)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._settle()
        except ImageNotSent as unfinished:
            if error is None:
                raise
            # The first failure is the step's; this one is for the operator.
            sys.stderr.write(f"{unfinished}: {unfinished.__cause__!r}\n")
        finally:
            self._thread.shutdown()

    def _settle(self) -> None:
        last, self._last = self._last, None
        if last is None:
            return
        item_index, future = last
        if (error := future.exception()) is not None:
            raise ImageNotSent(item_index) from error


def encode_and_send(
    image: Image,
    item_index: int,
    seed: int,
    params: OutputParams,
    metadata: EmbeddedMetadata,
    emit: Emit,
) -> None:
    """Encode a finished picture as `params` say, with `metadata` if they want it, and send it."""
    embedded = metadata if params.embed_metadata else None
    data = encode_image(
        image,
        params.format,
        embedded,
        jpeg_quality=params.jpeg_quality,
        webp_quality=params.webp_quality,
    )
    artifact = Artifact(
        item_index=item_index,
        format=params.format,
        width=image.width,
        height=image.height,
        seed=seed,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    emit(artifact, data)
