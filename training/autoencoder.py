"""The autoencoder's shape: 64x64x3 in [-1, 1] to 8x8x16 and back, about 0.4 M weights.

No residual block at full resolution: one costs as much as the rest of the decoder, and 32
channels at half resolution already say all there is to say about four pixels of three colours.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

WIDTH = 32
LATENT_CHANNELS = 16


def build_autoencoder() -> AutoencoderTiny:
    """An untrained autoencoder."""
    return AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(0, 1, 1, 2),
        num_decoder_blocks=(3, 3, 3, 0),
        latent_channels=LATENT_CHANNELS,
    )


def load_average(autoencoder: AutoencoderTiny, checkpoint: Path) -> None:
    """Put the averaged weights of a training checkpoint into `autoencoder`."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    autoencoder.load_state_dict(state["average"])


def pictures_to_tensor(pictures: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1)


@torch.inference_mode()
def encode_all(pictures: Tensor, checkpoint: Path, device: torch.device) -> Tensor:
    """Latents (N, 16, 8, 8) of uint8 pictures, by the averaged autoencoder."""
    autoencoder = build_autoencoder()
    load_average(autoencoder, checkpoint)
    autoencoder.to(device)
    parts = torch.split(pictures, 256)
    return torch.cat([autoencoder.encode(pictures_to_tensor(p.to(device))).latents for p in parts])
