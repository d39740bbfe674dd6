"""Replace the U-Net of a folder by one with the layers of Stable Diffusion 1.5, a tenth as wide.

`python -m benchmarks.isolation.deep_unet FOLDER`. Its weights are random: pictures of it are noise,
and take as long as any. What a load costs on a CPU follows the number of layers; their bytes are
mapped from the page cache.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

LAYERS = {
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 128, 128),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "attention_head_dim": 8,
}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(folder)
    UNet2DConditionModel.from_config({**config, **LAYERS}).save_pretrained(folder)


if __name__ == "__main__":
    main()
