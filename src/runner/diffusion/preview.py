"""A small picture of latents that are being sampled, by the model's own decoder.

Latents are averaged to a few, which takes most of their noise away, and decoded at that size: 1/64
of the work for a picture of 1024 pixels, and no table of colours for each family.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

# Latents along the longer side: 128 pixels where a decoder makes 8 of each.
SIDE = 16


def decode_small(
    pipeline: Any, latents: torch.Tensor, width: int, height: int
) -> Image.Image | None:
    """The first picture of `latents`, which become one of `width` x `height` pixels.

    None where the pipeline has no decoder of the usual kind, or it makes no colours of them.
    """
    vae: Any = getattr(pipeline, "vae", None)
    channels = getattr(getattr(vae, "config", None), "latent_channels", None)
    if channels is None:
        return None
    if latents.ndim == 3 and hasattr(pipeline, "_unpack_latents"):  # in patches of two by two
        latents = pipeline._unpack_latents(latents, height, width, pipeline.vae_scale_factor)
    if latents.ndim != 4 or latents.shape[1] != channels:
        return None
    with torch.no_grad(), _wide_enough(vae):
        pixels = vae.decode(_unscaled(vae, _shrunk(latents[:1])), return_dict=False)[0]
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not bool(torch.isfinite(pixels).all()):
        return None
    eight_bits = (pixels[0].float() / 2 + 0.5).clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(eight_bits.permute(1, 2, 0).cpu().numpy())


def _shrunk(latents: torch.Tensor) -> torch.Tensor:
    rows, columns = latents.shape[2:]
    factor = max(1.0, max(rows, columns) / SIDE)
    if factor == 1.0:
        return latents
    size = (max(1, round(rows / factor)), max(1, round(columns / factor)))
    return adaptive_avg_pool2d(latents.float(), size)


def _unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """From the denoiser's numbers to those that the decoder was trained on."""
    scale = getattr(vae.config, "scaling_factor", None) or 1.0
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    unscaled: torch.Tensor = (latents / scale + shift).to(vae.dtype)
    return unscaled


def _wide_enough(vae: Any) -> AbstractContextManager[Any]:
    """Some decoders overflow in half precision; bfloat16 has the same size and reaches further."""
    if vae.dtype != torch.float16:
        return nullcontext()
    return torch.autocast(vae.device.type, dtype=torch.bfloat16)
