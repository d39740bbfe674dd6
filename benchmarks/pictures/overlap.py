"""Measure what it saves to encode one picture while the next is sampled.

`python benchmarks/pictures/overlap.py` draws batches through the real job type, with and without
the overlap by turns, in one process: once with the tiny model of `tests.support.tiny_pipeline`,
which samples on the same CPU that encodes, and once with a sampler that only waits, as the host
does for a GPU.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL.Image import Image
from png_levels import pictures
from tests.support.tiny_pipeline import build

from cli.presets.measure import build_subject
from runner.images.sender import ImageSender
from runner.ipc.inputs import Inputs
from runner.job_types import base, generate
from runner.job_types.base import Context
from runner.process.cancellation import Stop
from shared.models.verify import read_model
from shared.presets import preset

ROUNDS = 5
STEPS = 1
SIDE, COUNT = 512, 4
WAIT_S = 0.2


class InTurn(ImageSender):
    """Finishes each picture before the next is begun."""

    def submit(self, item_index: int, finish: Callable[[], None]) -> None:
        super().submit(item_index, finish)
        self._settle()


@contextmanager
def finishing(kind: type[ImageSender]) -> Iterator[None]:
    with patch.object(base, "ImageSender", kind):
        yield


def ignore(_message: Any, body: bytes = b"") -> None:
    del body


def batch_s(job: generate.Generate, ctx: Any, params: Any) -> float:
    began = time.perf_counter()
    job.run(params, ctx.emit)
    return time.perf_counter() - began


class Elsewhere:
    """A sampler that is busy on another device for `WAIT_S`, then returns a real picture."""

    scheduler = None
    scheduler_class = "DDIMScheduler"
    scheduler_options: Mapping[str, Any] = {}
    tiled = False
    text_tokens = None
    components: Mapping[str, Any] = {}
    parameters: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._picture = pictures()["grained"]

    def check(self, _params: Any) -> None:
        pass

    def picture(self, _params: Any, _seed: int, _on_step: Any) -> tuple[Image, bool]:
        time.sleep(WAIT_S)
        return self._picture, False


def compare(what: str, job: generate.Generate, ctx: Any, count: int) -> None:
    params = ctx.spec.params.model_copy(update={"count": count})
    took: dict[type[ImageSender], list[float]] = {InTurn: [], ImageSender: []}
    for _ in range(ROUNDS):
        for kind in took:
            with finishing(kind):
                took[kind].append(batch_s(job, ctx, params))
    one, other = (statistics.median(took[kind]) / count * 1e3 for kind in (InTurn, ImageSender))
    sys.stdout.write(
        f"{what}: {one:.0f} ms an item in turn, {other:.0f} ms with the overlap,"
        f" ratio {other / one:.2f}\n"
    )


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "tiny"
        build(folder)
        spec = build_subject(folder, read_model(folder), preset("cpu"), (SIDE, SIDE)).spec
        spec = spec.model_copy(update={"params": spec.params.model_copy(update={"steps": STEPS})})
        stop = Stop()
        inputs = Inputs(spec, ignore, stop)
        ctx = Context(spec=spec, emit=ignore, stop=stop, versions={}, inputs=inputs)
        job = generate.Generate()
        job.prepare(ctx)
        compare(f"sampled on this CPU, {SIDE}x{SIDE}, {STEPS} step", job, ctx, COUNT)
        job._pipeline = Elsewhere()  # type: ignore[assignment]
        compare(f"sampled elsewhere for {WAIT_S * 1e3:.0f} ms, 1024x1024", job, ctx, 4 * COUNT)


if __name__ == "__main__":
    main()
