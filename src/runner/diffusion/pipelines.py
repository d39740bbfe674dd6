"""The text-to-image pipelines of diffusers: load one as a preset says, and sample with it.

The flow has no branch for a family: what differs is in `shared.models.families`. Weights come from
a local folder, safetensors only, and nothing is looked up elsewhere. The folder was checked before
(`shared.models.check.check_folder`): no pickle, no code, no foreign class in `model_index.json`.
"""

import inspect
import json
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL.Image import Image
from tqdm.std import tqdm  # type: ignore[import-untyped]

from runner.diffusion.finite import check_decoders, finite_pixels
from runner.diffusion.packed import load_packed
from runner.diffusion.placement import DECODER_STAYS, DTYPES, put_on_device
from runner.diffusion.preview import decode_small
from runner.diffusion.schedulers import keep_roots_real, replace_scheduler, start_at_first_level
from runner.diffusion.sources import NO_SOURCES, Sources, strength_of_a_step
from runner.diffusion.tasks import for_task
from shared.models.auto_pipelines import AUTO_PIPELINES
from shared.models.families import FAMILIES, ModelFamily, family_of
from shared.models.folder import CONFIG, INDEX, OPTIONAL, Layout, list_files
from shared.models.picture_tasks import PictureTask
from shared.models.weights import variant_of
from shared.protocol.messages import Dtype, GenerateParams, PresetSpec

OnStep = Callable[[int, int], None]
OnLatents = Callable[[torch.Tensor, int, int], None]
Arguments = dict[str, Any]


# For every pipeline that has such a parameter: it draws at the requested size (some would pick a
# size that they like and resize) and from the words of the request (some would edit them, with
# libraries that are not installed).
FIXED_ARGUMENTS: Arguments = {
    "use_resolution_binning": False,
    "clean_caption": False,
    "skip_text_cleaning": True,
}

# What pipelines call the strength of guidance. Where the first has no number by default, it is for
# distilled relatives, and one of the others is what a request means.
GUIDANCE_NAMES = ("guidance_scale", "true_cfg_scale", "prior_guidance_scale")

# diffusers resolves its classes at first use, which takes seconds. These share nearly all of their
# modules (50 ms for the last three), so a standby runner has them before it says READY; a class of
# `auto` waits until a step needs it.
PRELOADED = tuple(
    getattr(diffusers, str(family.pipeline))
    for kind, family in FAMILIES.items()
    if kind != "auto" and family.upscaling is None
)


class TextToImage:
    """A loaded `pipeline`. `scheduler` is the stable name requested, None for the folder's own."""

    def __init__(
        self,
        pipeline: Any,
        family: ModelFamily,
        scheduler: str | None,
        *,
        tiled: bool = False,
        decoder_stays: bool = True,
    ) -> None:
        """`decoder_stays`: it is on the device at any moment."""
        self.pipeline = pipeline
        self._decoder_stays = decoder_stays
        self._family = family
        self.scheduler = scheduler
        self.tiled = tiled

    @property
    def scheduler_class(self) -> str:
        return type(self.pipeline.scheduler).__name__

    @property
    def scheduler_options(self) -> Mapping[str, Any]:
        """Its configuration: what was requested over the model's own."""
        return dict(self.pipeline.scheduler.config)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What a call of this pipeline takes."""
        return inspect.signature(type(self.pipeline).__call__).parameters

    @property
    def text_tokens(self) -> int | None:
        """How many tokens its T5 reads, where it has one and the number is known."""
        parameter = self.parameters.get("max_sequence_length")
        if parameter is None or not isinstance(parameter.default, int):
            return None
        flag = self._family.guidance_flag
        if flag is None or getattr(self.pipeline.transformer.config, flag):
            return parameter.default
        return self._family.tokens_without_guidance or parameter.default

    def check(self, params: GenerateParams) -> None:
        """Raise ValueError for what was requested and this model cannot do; nothing is ignored.

        The API refused it by the model's schema, unless a newer diffusers changed what a pipeline
        takes.
        """
        requested = self._requested(params)
        missing = requested.keys() - FIXED_ARGUMENTS.keys() - self.parameters.keys()
        if self._family.max_negative_prompt == 0 and "negative_prompt" in requested:
            missing.add("negative_prompt")
        for name in requested:
            if name in missing:
                raise ValueError(f"{type(self.pipeline).__name__} has no use for a {name}")

    def picture(
        self,
        params: GenerateParams,
        seed: int,
        on_step: OnStep,
        sources: Sources = NO_SOURCES,
        on_latents: OnLatents = lambda latents, done, total: None,
    ) -> tuple[Image, bool]:
        """Sample and decode one picture; True with it when a safety checker blacked it out.

        `sources` are at the size of the result, and the pipeline is that of their task.

        `on_step(done, total)` runs after each sampling step and may raise to stop. Some schedulers
        take more sampling steps than were requested (Heun, PNDM): `total` is what they take.
        `on_latents(latents, done, total)` runs before it, except after the last step.
        """
        with finite_pixels(self.pipeline):
            output = self.pipeline(
                **self.arguments(params, sources),
                **self._callback(params, on_step, on_latents),
                # On the CPU on purpose: the same seed starts from the same noise on every device.
                generator=torch.Generator("cpu").manual_seed(seed),
            )
        blocked = bool(any(getattr(output, "nsfw_content_detected", None) or ()))
        image: Image = output.images[0]
        if image.size != (params.width, params.height):
            # Some pipelines round a size. What was requested is never changed.
            raise ValueError(f"the pipeline made {image.width}x{image.height} pixels instead")
        return image if blocked else sources.composite(image), blocked

    def arguments(self, params: GenerateParams, sources: Sources = NO_SOURCES) -> Arguments:
        """What the pipeline is called with for a request."""
        wanted = self._requested(params) | sources.arguments()
        return {name: value for name, value in wanted.items() if name in self.parameters}

    def preview(self, latents: torch.Tensor, params: GenerateParams) -> Image | None:
        """A small picture of what is being sampled; None where none can be made at a low price."""
        if not self._decoder_stays:  # fetching it takes seconds
            return None
        return decode_small(self.pipeline, latents, params.width, params.height)

    def _callback(
        self, params: GenerateParams, on_step: OnStep, on_latents: OnLatents
    ) -> Arguments:
        """How this pipeline is made to call both: the newer way, or the older one."""

        def report(latents: torch.Tensor | None, done: int, total: int) -> None:
            if latents is not None and done < total:
                on_latents(latents, done, total)
            on_step(done, total)

        def newer(pipeline: Any, index: int, _timestep: Any, kwargs: Arguments) -> Arguments:
            report(kwargs.get("latents"), index + 1, max(int(pipeline.num_timesteps), index + 1))
            return kwargs

        def older(index: int, _timestep: Any, latents: torch.Tensor) -> None:
            report(latents, index + 1, max(params.steps, index + 1))

        if "callback_on_step_end" in self.parameters:
            return {"callback_on_step_end": newer}
        if "callback" in self.parameters:
            return {"callback": older, "callback_steps": 1}
        return {}  # its steps cannot be seen: it can be stopped between two pictures, or killed

    def _requested(self, params: GenerateParams) -> Arguments:
        """All that the request says, under the names of the pipeline."""
        guidance_name = next(
            (name for name in GUIDANCE_NAMES if self._has_number(name)), GUIDANCE_NAMES[0]
        )
        arguments: Arguments = FIXED_ARGUMENTS | {
            "prompt": params.prompt,
            **self._sides(params),
            "num_inference_steps": params.steps,
            guidance_name: max(params.guidance, self._least_guidance),
        }
        if params.negative_prompt:  # its default differs from pipeline to pipeline
            arguments["negative_prompt"] = params.negative_prompt
        elif guidance_name == "true_cfg_scale":  # which has no effect when there is none at all
            arguments["negative_prompt"] = " "
        if "guidance_schedule" in self.parameters:  # its default goes before a number
            arguments["guidance_schedule"] = None
        if "max_area" in self.parameters:  # else it makes a picture of a megapixel, of this shape
            arguments["max_area"] = params.width * params.height
        if params.strength is not None:
            arguments["strength"] = strength_of_a_step(params.strength, params.steps)
        if "original_inference_steps" in self.parameters:
            arguments |= self._schedule_of_consistency(params)
        if self.text_tokens is not None:
            arguments["max_sequence_length"] = self.text_tokens
        return arguments

    def _schedule_of_consistency(self, params: GenerateParams) -> Arguments:
        """For a pipeline that takes its steps from a schedule of its training, and refuses to take
        more than a strength leaves of it: a schedule that is long enough."""
        config, steps = self.pipeline.scheduler.config, params.steps
        trained = int(config.num_train_timesteps)
        strength = 1.0
        if params.strength is not None:
            strength = max(strength_of_a_step(params.strength, steps), steps / trained)
        long_enough = max(int(config.original_inference_steps), math.ceil(steps / strength))
        schedule: Arguments = {"original_inference_steps": min(trained, long_enough)}
        return schedule if params.strength is None else schedule | {"strength": strength}

    def _sides(self, params: GenerateParams) -> Arguments:
        """Width and height; a pipeline without them takes those of the picture it starts from."""
        if params.strength is not None and "width" not in self.parameters:
            return {}
        return {"width": params.width, "height": params.height}

    @property
    def _least_guidance(self) -> float:
        row = AUTO_PIPELINES.get(type(self.pipeline).__name__)
        return 0.0 if row is None else row.least_guidance

    def _has_number(self, name: str) -> bool:
        """Whether the pipeline has this parameter, with a number as its default."""
        parameter = self.parameters.get(name)
        return parameter is not None and isinstance(parameter.default, float | int)


def load(
    kind: str,
    folder: Path,
    preset: PresetSpec,
    scheduler: str | None,
    *,
    layout: Layout = "diffusers",
    task: PictureTask | None = None,
) -> TextToImage:
    """Load the model of `folder` as `preset` says, onto its device."""
    pipeline = load_on_host(kind, folder, preset.dtype, layout=layout)
    return place(pipeline, kind, preset, scheduler, task)


def load_on_host(kind: str, folder: Path, dtype: Dtype, *, layout: Layout) -> Any:
    """The pipeline of `folder` in the host's memory, as the folder says."""
    silence_libraries()
    pipeline = LOADERS[layout](_stock_class(kind, folder), folder, DTYPES[dtype])
    pipeline.set_progress_bar_config(disable=True)
    if hasattr(pipeline, "text_preprocessor"):
        # PRX edits the words even when it is told not to, with a library that is not installed.
        pipeline.text_preprocessor.basic_clean = str.strip
    check_decoders(pipeline)
    return pipeline


def _stock_class(kind: str, folder: Path) -> Any:
    """The class of diffusers that loads a folder; of `auto` the one that its index names.

    diffusers' own way from a name to a class imports every pipeline that there is (0.9 s).
    """
    name = str(family_of(kind).pipeline)
    if kind == "auto":
        name = json.loads((folder / INDEX).read_text(encoding="utf-8"))["_class_name"]
        if name not in AUTO_PIPELINES:
            raise ValueError(
                f"{INDEX}: {str(name)[:80]!r} makes no picture from a text, and edits none"
            )
    return getattr(diffusers, name)


def place(
    pipeline: Any,
    kind: str,
    preset: PresetSpec,
    scheduler: str | None,
    task: PictureTask | None = None,
) -> TextToImage:
    """Make a pipeline of the host do what a step needs, on the preset's device.

    `task` is what it does with pictures; None: it draws from the text alone.
    """
    pipeline = for_task(pipeline, task)
    if scheduler is not None:
        replace_scheduler(pipeline, scheduler)
    keep_roots_real(pipeline.scheduler)
    start_at_first_level(pipeline.scheduler)
    tiled = preset.vae_tiling and enable_tiling(pipeline)
    put_on_device(pipeline, preset)
    return TextToImage(
        pipeline,
        family_of(kind),
        scheduler,
        tiled=tiled,
        decoder_stays=preset.offload in DECODER_STAYS,
    )


def enable_tiling(pipeline: Any) -> bool:
    """Decode large pictures in tiles; False where the pipeline has no VAE that can."""
    vae: Any = getattr(pipeline, "vae", None)
    if not hasattr(vae, "use_tiling"):  # then `enable_tiling` is missing, or only raises
        return False
    vae.enable_tiling()
    return True


def load_stock(stock_class: Any, folder: Path, dtype: torch.dtype, **arguments: Any) -> Any:
    """A pipeline from a folder of diffusers: local, safetensors, the variant that is there."""
    return stock_class.from_pretrained(
        str(folder),
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        variant=variant_of(list_files(folder)),
        **arguments,
    )


def _from_folder(stock_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    parts = _without_missing_parts(folder) | load_packed(folder, dtype)
    return load_stock(stock_class, folder, dtype, **parts)


def _from_single_file(stock_class: Any, folder: Path, dtype: torch.dtype) -> Any:
    """One file of weights, and `config/`, a folder of the usual layout that has the weights that
    the file lacks."""
    (checkpoint,) = folder.glob("*.safetensors")
    config = folder / CONFIG
    pipeline = stock_class.from_single_file(
        str(checkpoint),
        config=str(config),
        dtype=dtype,
        local_files_only=True,
        **_without_missing_parts(config),
        **_load_beside(config, dtype),
    )
    for part in pipeline.components.values():
        # diffusers 0.42 leaves a T5 that it has filled as a model in training: dropout would change
        # the prompt at random; and without the weight that its embedding shares, so that the move
        # to the device would fail.
        if isinstance(part, transformers.PreTrainedModel):
            part.tie_weights()
            part.eval()
    return pipeline


def _load_beside(config: Path, dtype: torch.dtype) -> Arguments:
    """The parts that have their own weights below `config`.

    `from_single_file` would look there only for some of them, and under one name only.
    """
    libraries = {"diffusers": diffusers, "transformers": transformers}
    index = json.loads((config / INDEX).read_text(encoding="utf-8"))
    files = list_files(config)
    parts: Arguments = {}
    for part, entry in index.items():
        weights = [n for n in files if n.startswith(f"{part}/") and n.endswith(".safetensors")]
        if weights and entry[0] in libraries:
            parts[part] = getattr(libraries[entry[0]], entry[1]).from_pretrained(
                str(config),
                subfolder=part,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                variant=variant_of(weights),
            )
    return parts


LOADERS: dict[Layout, Callable[[Any, Path, torch.dtype], Any]] = {
    "diffusers": _from_folder,
    "single_file": _from_single_file,
}


def _without_missing_parts(folder: Path) -> Arguments:
    """Arguments that load a model whose index names an optional part that was not shipped."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    missing = [part for part in OPTIONAL if part in index and not (folder / part).is_dir()]
    arguments: Arguments = dict.fromkeys(missing)
    if "safety_checker" in missing:
        arguments["requires_safety_checker"] = False
    return arguments


def silence_libraries() -> None:
    """No bars and no advice on stderr: an operator reads it for tracebacks."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    # Else tqdm makes a lock for several processes, a named semaphore in /dev/shm, which a process
    # that ends by `_exit` or SIGKILL leaves there until the worker itself ends.
    tqdm.set_lock(threading.RLock())
