"""What previews cost the process that samples, in CPU seconds, which other work hardly moves.

`python -m benchmarks.previews.cost [--pairs N]` draws with the demo model in this process, as a
runner does, by turns without previews and with a request for one every half second, which the
runner's own bookkeeping grants or not.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from pathlib import Path

import torch
from benchmarks.isolation.pipelines import PRESET
from benchmarks.isolation.workload import GUIDANCE, PROMPT, SEED, SIDE

from runner.diffusion.pipelines import TextToImage, load
from runner.images.previews import encode_preview
from runner.ipc.previews import PreviewRequests
from runner.session import configure_torch
from shared.protocol.messages import GenerateParams

MODEL = Path("models/sd/dreamforge-demo@1").absolute()
STEPS, ASK_EVERY_S = 50, 0.5
PARAMS = GenerateParams(prompt=PROMPT, width=SIDE, height=SIDE, steps=STEPS, guidance=GUIDANCE)


class Watcher:
    """A worker that asks for a client who looks."""

    def __init__(self, pipeline: TextToImage) -> None:
        self._pipeline = pipeline
        self._requests = PreviewRequests()
        self._ended = threading.Event()
        self.costs_s: list[float] = []
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._ended.is_set():
            self._requests.ask()
            self._ended.wait(ASK_EVERY_S)

    def on_latents(self, latents: torch.Tensor, step: int, steps: int) -> None:
        if self._requests.due():
            began_s = time.process_time()
            with self._requests.making():
                encode_preview(self._pipeline.preview(latents, PARAMS))
            self.costs_s.append(time.process_time() - began_s)

    def leave(self) -> None:
        self._ended.set()
        self._thread.join()


def draw(pipeline: TextToImage, pictures: int, watcher: Watcher | None) -> float:
    """CPU seconds of a job of so many pictures."""
    began_s = time.process_time()
    for index in range(pictures):
        seen = {} if watcher is None else {"on_latents": watcher.on_latents}
        pipeline.picture(PARAMS, SEED + index, lambda step, steps: None, **seen)
    return time.process_time() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=3)
    arguments = parser.parse_args()
    configure_torch(PRESET)
    pipeline = load("sd", MODEL, PRESET, None)
    draw(pipeline, 1, None)
    load_before = os.getloadavg()[0]
    ratios, without, costs = [], [], []
    for number in range(arguments.pairs):
        seconds = {}
        for watched in (number % 2 == 0, number % 2 == 1):
            watcher = Watcher(pipeline) if watched else None
            seconds[watched] = draw(pipeline, arguments.pictures, watcher)
            if watcher is not None:
                watcher.leave()
                costs += watcher.costs_s
        ratios.append(seconds[True] / seconds[False])
        without.append(seconds[False] / arguments.pictures)
    step_ms = 1000 * statistics.median(without) / STEPS
    cost_ms = 1000 * statistics.median(costs)
    drawn = arguments.pairs * arguments.pictures
    share = sum(costs) / drawn / statistics.median(without)
    lines = [
        f"load {load_before:.1f} before, {os.getloadavg()[0]:.1f} after; {arguments.pairs} pairs",
        f"with / without: {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}",
        f"CPU ms of a step: {step_ms:.1f}; of a preview: {cost_ms:.1f}",
        f"previews a picture: {len(costs) / drawn:.2f}; their share of sampling: {share:.2%}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
