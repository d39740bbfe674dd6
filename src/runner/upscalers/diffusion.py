"""Enlarging with diffusers' two stock upscaling pipelines: x4 on pixels, x2 on latents.

They draw the prompt of the generation again, at the larger size, and the seed decides the detail.
The folder is loaded like any other: safetensors, no code.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL.Image import Image

from runner.diffusion.finite import check_decoders
from runner.diffusion.pipelines import enable_tiling, load_stock, silence_libraries
from runner.diffusion.placement import DTYPES, put_on_device
from runner.diffusion.prompts import to_log, truncations_of
from runner.upscalers.base import OnStep
from runner.upscalers.resample import resample
from shared.models.families import family_of
from shared.protocol.messages import (
    DiffusionParams,
    Dtype,
    InputSpec,
    Log,
    ModelSpec,
    PresetSpec,
)

NO_GUIDANCE = 1.0  # a negative prompt has an effect above it


def load_on_host(model: ModelSpec, dtype: Dtype) -> Any:
    """The model's pipeline in the host's memory."""
    silence_libraries()
    stock_class = getattr(diffusers, str(family_of(model.kind).pipeline))
    pipeline = load_stock(stock_class, Path(model.folder), DTYPES[dtype])
    pipeline.set_progress_bar_config(disable=True)
    check_decoders(pipeline)
    return pipeline


def _without_effect(params: DiffusionParams) -> Iterator[Log]:
    if params.negative_prompt and params.guidance <= NO_GUIDANCE:
        yield Log(
            level="WARNING",
            code="prompt.no_effect",
            message=f"negative_prompt: this upscaler works with a guidance of {params.guidance:g}, "
            "with which it has no effect",
        )


class DiffusionUpscaler:
    """A loaded `pipeline` on its device; `name` is the model's."""

    def __init__(
        self, pipeline: Any, model: ModelSpec, params: DiffusionParams, preset: PresetSpec
    ) -> None:
        """`pipeline` of `load_on_host`."""
        self.name = f"{model.name}@{model.version}"
        self._params = params
        self.pipeline = pipeline
        # It may read less of a prompt than the model that drew the picture.
        self.remarks = (*map(to_log, truncations_of(pipeline, params)), *_without_effect(params))
        if preset.vae_tiling:
            enable_tiling(self.pipeline)
        put_on_device(self.pipeline, preset)

    def enlarge(self, image: Image, source: InputSpec, on_step: OnStep) -> Image:
        """`image` at the pipeline's own scale; `on_step` after each sampling step."""
        params = self._params

        def after(step: int, _timestep: Any, _latents: Any) -> None:
            on_step(min(step + 1, params.steps), params.steps)

        output = self.pipeline(
            prompt=params.prompt,
            negative_prompt=params.negative_prompt or None,
            image=image.convert("RGB"),
            num_inference_steps=params.steps,
            guidance_scale=params.guidance,
            # On the CPU on purpose: the same seed starts from the same noise on every device.
            generator=torch.Generator("cpu").manual_seed(source.seed),
            callback=after,
        )
        result: Image = output.images[0]
        expected = (image.width * params.native_scale, image.height * params.native_scale)
        if result.size != expected:
            raise ValueError(f"the pipeline made {result.width}x{result.height} pixels instead")
        if image.has_transparency_data:
            result.putalpha(resample(image.convert("RGBA").getchannel("A"), result.size))
        return result
