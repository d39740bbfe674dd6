"""The table of model kinds: which stock diffusers class loads one, and how it is called.

The job's flow has no branch per family; what differs between families is data in `FAMILIES`.
Weights come from a local folder, safetensors only, nothing is looked up anywhere else. The folder
has been checked before (`shared.registry.check_folder`): no pickle, no code, no foreign module in
`model_index.json`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL.Image import Image
from tqdm.std import tqdm  # type: ignore[import-untyped]

from runner.schedulers import replace_scheduler
from shared.messages import GenerateParams, PresetSpec

OnStep = Callable[[int, int], None]
Arguments = dict[str, Any]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One row: the class by name in `diffusers`, and which request fields it has no use for."""

    pipeline: str
    ignores: frozenset[str] = frozenset()


FAMILIES: dict[str, Family] = {
    "sd": Family(pipeline="StableDiffusionPipeline"),
    "sdxl": Family(pipeline="StableDiffusionXLPipeline"),
    "sd3": Family(pipeline="StableDiffusion3Pipeline"),
    # Flux is guidance-distilled: a negative prompt would need a second pass per step.
    "flux": Family(pipeline="FluxPipeline", ignores=frozenset({"negative_prompt"})),
    "auto": Family(pipeline="AutoPipelineForText2Image"),
}

# diffusers resolves its classes at first use, which is where the seconds go. These share nearly all
# of their modules (50 ms for the last three), so a standby runner has them before it says READY;
# `auto` imports every pipeline there is (0.9 s) and waits until somebody needs it.
PRELOADED = tuple(
    getattr(diffusers, FAMILIES[kind].pipeline) for kind in ("sd", "sdxl", "sd3", "flux")
)


class TextToImage:
    """A loaded pipeline. `scheduler` is the stable name asked for, None for the folder's own."""

    def __init__(self, pipeline: Any, family: Family, scheduler: str | None) -> None:
        self._pipeline = pipeline
        self._family = family
        self.scheduler = scheduler

    @property
    def scheduler_class(self) -> str:
        return type(self._pipeline.scheduler).__name__

    def ignored(self, params: GenerateParams) -> list[str]:
        """The fields that were given and that this family cannot use."""
        return sorted(name for name in self._family.ignores if getattr(params, name))

    def picture(self, params: GenerateParams, seed: int, on_step: OnStep) -> tuple[Image, bool]:
        """Sample and decode one picture; True with it when a safety checker blacked it out.

        `on_step(done, total)` runs after each sampling step and may raise to stop. Some schedulers
        take more sampling steps than were asked for (Heun, PNDM): `total` is what they take.
        """

        def after(pipeline: Any, index: int, _timestep: Any, kwargs: Arguments) -> Arguments:
            on_step(index + 1, max(int(pipeline.num_timesteps), index + 1))
            return kwargs

        output = self._pipeline(
            **self._arguments(params),
            # On the CPU on purpose: the same seed starts from the same noise on every device.
            generator=torch.Generator("cpu").manual_seed(seed),
            callback_on_step_end=after,
        )
        blocked = bool(any(getattr(output, "nsfw_content_detected", None) or ()))
        image: Image = output.images[0]
        if image.size != (params.width, params.height):
            # Some pipelines round a size they do not like. We never change what was asked for.
            raise ValueError(f"the pipeline made {image.width}x{image.height} pixels instead")
        return image, blocked

    def _arguments(self, params: GenerateParams) -> Arguments:
        given: Arguments = {
            "prompt": params.prompt,
            "negative_prompt": params.negative_prompt or None,
            "width": params.width,
            "height": params.height,
            "num_inference_steps": params.steps,
            "guidance_scale": params.guidance,
        }
        return {name: value for name, value in given.items() if name not in self._family.ignores}


def load(kind: str, folder: Path, preset: PresetSpec, scheduler: str | None) -> TextToImage:
    """Load the model of `folder` as `preset` says, onto its device."""
    quiet()
    family = FAMILIES[kind]
    pipeline = getattr(diffusers, family.pipeline).from_pretrained(
        str(folder),
        dtype=DTYPES[preset.dtype],
        use_safetensors=True,
        local_files_only=True,
        **_without_missing_checker(folder),
    )
    pipeline.set_progress_bar_config(disable=True)
    if scheduler is not None:
        replace_scheduler(pipeline, scheduler)
    if preset.vae_tiling:
        pipeline.vae.enable_tiling()
    PLACES[preset.offload](pipeline, preset.device)
    return TextToImage(pipeline, family, scheduler)


PLACES: dict[str, Callable[[Any, str], Any]] = {
    "none": lambda pipeline, device: pipeline.to(device),
    "model": lambda pipeline, device: pipeline.enable_model_cpu_offload(device=device),
    "sequential": lambda pipeline, device: pipeline.enable_sequential_cpu_offload(device=device),
}


def _without_missing_checker(folder: Path) -> Arguments:
    """Arguments that load a model whose index names a safety checker that was not shipped."""
    index = json.loads((folder / "model_index.json").read_text())
    if "safety_checker" not in index or (folder / "safety_checker").is_dir():
        return {}
    return {"safety_checker": None, "requires_safety_checker": False}


def quiet() -> None:
    """No bars and no advice on stderr: an operator reads it for tracebacks."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    # Else tqdm makes a lock for several processes, a named semaphore in /dev/shm, which a process
    # that ends by `_exit` or SIGKILL leaves there until the worker itself ends.
    tqdm.set_lock(threading.RLock())
