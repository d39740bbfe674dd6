"""Whether the parts of one pipeline fit one another.

Each part fits its own configuration, and yet the first step of every job would fail: the denoiser
reads a text of another width than the encoder writes, or latents of another number of channels, or
the scheduler is one that its pipeline does not know how to call.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Configs = Mapping[str, Mapping[str, Any]]  # by the name of the part
# What a denoiser's configuration says, and the sum of what other parts write.
_Link = tuple[str, str, Callable[[Configs], Any]]


def _width(part: str, name: str, times: int = 1) -> Callable[[Configs], Any]:
    return lambda configs: configs[part][name] * times


def _sum(*links: Callable[[Configs], Any]) -> Callable[[Configs], Any]:
    return lambda configs: sum(link(configs) for link in links)


_CLIP_L, _CLIP_G = (
    _width("text_encoder", "hidden_size"),
    _width("text_encoder_2", "hidden_size"),
)
_POOLED = _sum(_width("text_encoder", "projection_dim"), _width("text_encoder_2", "projection_dim"))
_LATENTS = _width("vae", "latent_channels")
_LINKS: dict[str, tuple[_Link, ...]] = {
    "StableDiffusionPipeline": (
        ("unet", "in_channels", _LATENTS),
        ("unet", "cross_attention_dim", _CLIP_L),
    ),
    "StableDiffusionXLPipeline": (
        ("unet", "in_channels", _LATENTS),
        ("unet", "cross_attention_dim", _sum(_CLIP_L, _CLIP_G)),
    ),
    "StableDiffusion3Pipeline": (
        ("transformer", "in_channels", _LATENTS),
        ("transformer", "pooled_projection_dim", _POOLED),
        ("transformer", "joint_attention_dim", _width("text_encoder_3", "d_model")),
    ),
    "FluxPipeline": (
        ("transformer", "in_channels", _width("vae", "latent_channels", 4)),
        ("transformer", "pooled_projection_dim", _CLIP_L),
        ("transformer", "joint_attention_dim", _width("text_encoder_2", "d_model")),
    ),
}
# What the pipeline calls of its scheduler; `sigmas` is a parameter of `set_timesteps`.
_CALLS = {
    "StableDiffusionPipeline": ("init_noise_sigma", "scale_model_input"),
    "StableDiffusionXLPipeline": ("init_noise_sigma", "scale_model_input"),
}
_PASS_SIGMAS = frozenset({"FluxPipeline", "FluxKontextPipeline", "ChromaPipeline"})
# These add the autoencoder's shift without asking whether there is one.
ADD_SHIFT = frozenset(
    """
    ChromaPipeline FluxKontextPipeline FluxPipeline Lumina2Pipeline OvisImagePipeline
    StableDiffusion3PAGPipeline StableDiffusion3Pipeline ZImageOmniPipeline ZImagePipeline
    """.split()
)


def misfits_of_links(pipeline: str, configs: Configs) -> Iterator[str]:
    """What one part's configuration says and another one's contradicts."""
    for part, name, link in _LINKS.get(pipeline, ()):
        own = configs[part].get(name)
        try:
            wanted = link(configs)
        except (KeyError, TypeError):  # a part that is left out, as SD 3's third text encoder
            continue
        # A list has one number for each block; a projection in front takes any width.
        if isinstance(own, int) and not configs[part].get("encoder_hid_dim") and own != wanted:
            yield f"{part}: {name} is {own}, and the parts beside it make {wanted}"


def misfits_of_calls(pipeline: str, scheduler: Any) -> Iterator[str]:
    """What the pipeline would ask of a scheduler of this class in vain."""
    name = type(scheduler).__name__
    lacking = [call for call in _CALLS.get(pipeline, ()) if not hasattr(scheduler, call)]
    sigmas = inspect.signature(scheduler.set_timesteps).parameters.keys() & {"sigmas"}
    if lacking or (pipeline in _PASS_SIGMAS and not sigmas):
        yield f"{pipeline} cannot sample with a {name}"
