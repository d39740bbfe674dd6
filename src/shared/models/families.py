"""What is known about each kind of model."""

from __future__ import annotations

from typing import Literal

from shared.limits import MAX_PROMPT

Kind = Literal["sd", "sdxl", "sd3", "flux", "auto", "esrgan", "sd_upscale", "sd_latent_upscale"]
Upscaling = Literal["gan", "diffusion"]
# Which `chain.upscale.impl` a kind of upscaler is.
UPSCALING_OF: dict[Kind, Upscaling] = {
    "esrgan": "gan",
    "sd_upscale": "diffusion",
    "sd_latent_upscale": "diffusion",
}
Family = Literal[
    "sd1", "sd2", "sdxl", "sd3", "sd35_medium", "sd35_large", "flux_dev", "flux_schnell"
]

# The stable names, by what a kind of model was trained for. `runner.diffusion.schedulers` has the
# classes.
DIFFUSION_SCHEDULERS = (
    "ddim",
    "pndm",
    "euler",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde_karras",
    "unipc",
)
FLOW_SCHEDULERS = ("flow_match_euler",)  # diffusers' Heun takes no sigmas, so Flux refuses it
SCHEDULERS = DIFFUSION_SCHEDULERS + FLOW_SCHEDULERS
# Those whose classes cannot begin without any signal, for models that were trained down to none
# (`rescale_betas_zero_snr`): what they draw with such a model is noise, or near it.
NEED_A_SIGNAL = ("pndm", "heun")
SCHEDULERS_OF: dict[Kind, tuple[str, ...]] = {
    "sd": DIFFUSION_SCHEDULERS,
    "sdxl": DIFFUSION_SCHEDULERS,
    "sd3": FLOW_SCHEDULERS,
    "flux": FLOW_SCHEDULERS,
    "auto": (),  # nothing is known about it but what its folder says
    "esrgan": (),
    "sd_upscale": (),
    "sd_latent_upscale": (),
}
# The autoencoder halves a side three times; these transformers pair latent pixels on top of that.
# diffusers would round a Flux size down by itself, and we never change what was asked for.
# For an upscaler these are the sides of the picture that it is given.
MULTIPLE_OF: dict[Kind, int] = {
    "sd": 8,
    "sdxl": 8,
    "sd3": 16,
    "flux": 16,
    "auto": 8,
    "esrgan": 8,
    "sd_upscale": 8,
    "sd_latent_upscale": 64,  # a latent of an eighth, halved three times
}
# Flux is guidance-distilled, so a negative prompt has no effect on it. An empty one is accepted.
MAX_NEGATIVE_PROMPT: dict[Kind, int] = {
    "sd": MAX_PROMPT,
    "sdxl": MAX_PROMPT,
    "sd3": MAX_PROMPT,
    "flux": 0,
    "auto": MAX_PROMPT,
    "esrgan": 0,
    "sd_upscale": MAX_PROMPT,
    "sd_latent_upscale": MAX_PROMPT,
}
KIND_OF_CLASS: dict[str, Kind] = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "StableDiffusionUpscalePipeline": "sd_upscale",
    "StableDiffusionLatentUpscalePipeline": "sd_latent_upscale",
}
# What the stock upscaling pipelines multiply a side by.
SCALE_OF: dict[Kind, int] = {"sd_upscale": 4, "sd_latent_upscale": 2}
# What the makers of each family recommend: steps and guidance.
RECOMMENDED: dict[Kind, tuple[int, float]] = {
    "sd": (25, 7.5),
    "sdxl": (30, 5.0),
    "sd3": (28, 7.0),
    "flux": (28, 3.5),
    "auto": (25, 5.0),
    "esrgan": (1, 0.0),
    "sd_upscale": (50, 9.0),
    "sd_latent_upscale": (20, 0.0),
}
# Of a model into which its steps and the guidance were distilled, such as FLUX.1 schnell.
DISTILLED = (4, 0.0)
NATIVE_SIDE: dict[Kind, int] = {
    "sd": 512,
    "sdxl": 1024,
    "sd3": 1024,
    "flux": 1024,
    "auto": 512,
    "esrgan": 256,
    "sd_upscale": 128,
    "sd_latent_upscale": 512,
}
# The side of the tiles that a kind's VAE decodes in, pixels: the size it was trained at. An `auto`
# pipeline has tiles of its own, or none, so its pictures count as decoded whole.
TILE_SIDE: dict[Kind, int] = {
    "sd": 512,
    "sdxl": 1024,
    "sd3": 1024,
    "flux": 1024,
    "sd_upscale": 256,
    "sd_latent_upscale": 512,
}
KIND_OF_FAMILY: dict[Family, Kind] = {
    "sd1": "sd",
    "sd2": "sd",
    "sdxl": "sdxl",
    "sd3": "sd3",
    "sd35_medium": "sd3",
    "sd35_large": "sd3",
    "flux_dev": "flux",
    "flux_schnell": "flux",
}
