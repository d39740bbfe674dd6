"""Pipelines that stay in a process, loaded as a runner loads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.isolation.workload import GUIDANCE, PROMPT, SEED, Job
from PIL.Image import Image

from runner.diffusion.pipelines import TextToImage, load
from runner.session import configure_torch
from shared.protocol.messages import GenerateParams, PresetSpec

# What a runner uses of the preset `cpu`.
PRESET = PresetSpec(name="cpu", version=3, device="cpu", dtype="float32", threads=1)


class Pipelines:
    """At most `keep` models of `folders` in memory; the one loaded first goes for another."""

    def __init__(self, folders: Mapping[str, str], keep: int) -> None:
        configure_torch(PRESET)
        self._folders = folders
        self._keep = keep
        self._loaded: dict[str, TextToImage] = {}

    def pictures(self, job: Job) -> Iterator[Image]:
        """Draw the pictures of a job, one after another."""
        pipeline = self._get(job.model)
        params = GenerateParams(
            prompt=PROMPT, width=job.side, height=job.side, steps=job.steps, guidance=GUIDANCE
        )
        for index in range(job.count):
            yield pipeline.picture(params, SEED + index, lambda step, steps: None)[0]

    def _get(self, model: str) -> TextToImage:
        if model not in self._loaded:
            if len(self._loaded) == self._keep:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[model] = load("sd", Path(self._folders[model]), PRESET, None)
        return self._loaded[model]
