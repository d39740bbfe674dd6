"""Run a model on this host to measure its memory, for `dreamforge preset measure`."""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
from PIL import Image

from cli.errors import Failure
from cli.presets.profiler import Need, Peak, Subject, fit_need, measure
from shared.limits import MAX_SIDE, MIN_SIDE
from shared.models.descriptor import ModelDescriptor
from shared.models.families import FAMILIES
from shared.models.verify import read_model
from shared.presets import Preset
from shared.protocol.messages import (
    DiffusionParams,
    GanParams,
    GenerateParams,
    GenerateSpec,
    InputSpec,
    ModelSpec,
    UpscaleSpec,
)
from supervisor.devices.cpu import CpuProbe
from supervisor.devices.device import DeviceLost, DeviceProbe
from supervisor.devices.gpu import GpuProbe, may_have_gpus
from supervisor.processes.containment import Containment, decide, read_kernel

Size = tuple[int, int]
# The first steps allocate what the later ones reuse, so more steps need no more memory.
STEPS = 2
PROMPT = "a red apple"


def parse_size(text: str) -> Size:
    """Width and height in pixels of "WxH"."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(MIN_SIDE <= side <= MAX_SIDE and side % 8 == 0 for side in size):
        raise Failure(
            f"--size {text}: must be WIDTHxHEIGHT, {MIN_SIDE} to {MAX_SIDE}, multiples of 8"
        )
    return size


def measure_model(
    folder: Path, preset: Preset, sizes: Sequence[Size]
) -> tuple[str, list[Peak], Need]:
    """Run the model once per size on this host's first device of the preset's kind."""
    if preset.device == "cuda" and not may_have_gpus():
        raise Failure(f"preset {preset.name} is for a GPU, and this host has no NVIDIA driver")
    model = read_model(folder)
    native = model.defaults.width, model.defaults.height
    sizes = sizes or [native, (2 * native[0], 2 * native[1])]
    if len({width * height for width, height in sizes}) < 2:
        raise Failure("--size: two sizes at least, or one cannot tell what a pixel costs")
    subjects = [build_subject(folder.absolute(), model, preset, size) for size in sizes]
    containment = decide("auto", folder.absolute(), read_kernel())
    peaks = anyio.run(_run, preset, subjects, containment)
    return model.kind, peaks, fit_need(peaks)


async def _run(preset: Preset, subjects: list[Subject], containment: Containment) -> list[Peak]:
    mark = f"measure:{os.getpid()}:{uuid4()}"
    probe: DeviceProbe = CpuProbe(1) if preset.device == "cpu" else GpuProbe(mark)
    try:
        devices = await probe.devices()
        return [
            await measure(
                probe,
                devices[0],
                subject,
                mark=mark,
                timeout_s=preset.timeout_s,
                containment=containment,
            )
            for subject in subjects
        ]
    except DeviceLost as error:
        raise Failure(f"this host's {preset.device} device cannot be used: {error}") from None
    finally:
        await probe.close()


def build_subject(folder: Path, model: ModelDescriptor, preset: Preset, size: Size) -> Subject:
    """One step. For an upscaler, `size` is the size of its input."""
    width, height = size
    step: dict[str, Any] = {
        "job_id": "measure",
        "step_id": "measure",
        "preset": preset.budget_for(model.kind).spec,
        "model": ModelSpec(
            id="measure",
            name=model.name,
            version=model.version,
            kind=model.kind,
            folder=str(folder),
            checkpoint_sha256=model.checkpoint_sha256,
        ),
    }
    if model.scale is not None:
        return _upscale_subject(step, model, model.scale, size)
    params = GenerateParams(width=width, height=height, seed=0, **_sampling(model))
    spec = GenerateSpec(step_name="generate", params=params, **step)
    return Subject(spec=spec, pixels=width * height)


def _upscale_subject(
    step: dict[str, Any], model: ModelDescriptor, scale: int, size: Size
) -> Subject:
    picture, (width, height) = _noise(size), size
    sha256 = hashlib.sha256(picture).hexdigest()
    source = InputSpec(
        item_index=0, format="png", width=width, height=height, seed=0, sha256=sha256
    )
    # The requested scale does not matter: the native one needs the most memory.
    params: GanParams | DiffusionParams
    if FAMILIES[model.kind].upscaling == "gan":
        params = GanParams(scale=2, native_scale=scale)
    else:
        params = DiffusionParams(scale=2, native_scale=scale, **_sampling(model))
    spec = UpscaleSpec(step_name="upscale", params=params, inputs=[source], **step)
    return Subject(spec=spec, pixels=width * height * scale**2, picture=picture)


def _sampling(model: ModelDescriptor) -> dict[str, Any]:
    return {"prompt": PROMPT, "steps": STEPS, "guidance": model.defaults.guidance}


def _noise(size: Size) -> bytes:
    """A PNG of this size."""
    data = io.BytesIO()
    Image.effect_noise(size, 40).convert("RGB").save(data, "png")
    return data.getvalue()
