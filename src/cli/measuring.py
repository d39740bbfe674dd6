"""`dreamforge preset measure`: the runs that it takes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import anyio

from cli.failures import Failure
from shared.messages import GenerateParams, GenerateSpec, ModelSpec
from shared.model_schema import MAX_SIDE, MIN_SIDE, ModelDescriptor
from shared.presets import Preset
from shared.registry import read_model
from supervisor.cpu_probe import CpuProbe
from supervisor.devices import DeviceLost, DeviceProbe
from supervisor.gpu_probe import GpuProbe, MpsRefused
from supervisor.measure import Need, Peak, measure, need_of

Size = tuple[int, int]
# Memory depends on the steps only through the first ones, which allocate what the rest reuses.
STEPS = 2
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


def sides(text: str) -> Size:
    """Width and height in pixels of "WxH"."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(MIN_SIDE <= side <= MAX_SIDE and side % 8 == 0 for side in size):
        raise Failure(
            f"--size {text}: must be WIDTHxHEIGHT, {MIN_SIDE} to {MAX_SIDE}, multiples of 8"
        )
    return size


def measured(folder: Path, preset: Preset, sizes: Sequence[Size]) -> tuple[str, list[Peak], Need]:
    """Run the model of `folder` once per size on this host's first device of the preset's kind."""
    if preset.device == "cuda" and not NVIDIA_DRIVER.exists():
        raise Failure(f"preset {preset.name} is for a GPU, and this host has no NVIDIA driver")
    model = read_model(folder)
    native = model.defaults.width, model.defaults.height
    chosen = list(sizes) or [native, (2 * native[0], 2 * native[1])]
    if len({width * height for width, height in chosen}) < 2:
        raise Failure("--size: two sizes at least, or one cannot tell what a pixel costs")
    specs = [_spec(folder.absolute(), model, preset, size) for size in chosen]
    peaks = anyio.run(_run, preset, specs)
    return model.kind, peaks, need_of(peaks)


async def _run(preset: Preset, specs: list[GenerateSpec]) -> list[Peak]:
    mark = f"measure:{os.getpid()}:{uuid4()}"
    probe: DeviceProbe = CpuProbe(1) if preset.device == "cpu" else GpuProbe(mark)
    try:
        devices = await probe.devices()
        return [
            await measure(probe, devices[0], spec, mark=mark, timeout_s=preset.timeout_s)
            for spec in specs
        ]
    except (DeviceLost, MpsRefused) as error:
        raise Failure(f"this host's {preset.device} device cannot be used: {error}") from None
    finally:
        await probe.close()


def _spec(folder: Path, model: ModelDescriptor, preset: Preset, size: Size) -> GenerateSpec:
    return GenerateSpec(
        job_id="measure",
        step_id="measure",
        step_name="generate",
        model=ModelSpec(
            id="measure",
            name=model.name,
            version=model.version,
            kind=model.kind,
            folder=str(folder),
            checkpoint_sha256=model.checkpoint_sha256,
        ),
        preset=preset.for_runner(model.kind),
        params=GenerateParams(
            prompt="a red apple",
            width=size[0],
            height=size[1],
            steps=STEPS,
            guidance=model.defaults.guidance,
            seed=0,
        ),
    )
