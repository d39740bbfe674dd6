"""Safetensors files by their headers alone: sound ones with next to no bytes, and broken ones."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

Sizes = dict[str, tuple[int, ...]]

CLIP = "text_model.embeddings.position_embedding.weight"
U_NET: Sizes = {
    "model.diffusion_model.input_blocks.0.0.weight": (2, 4, 1, 1),
    "model.diffusion_model.out.2.weight": (4, 2, 1, 1),
}
VAE: Sizes = {"first_stage_model.encoder.conv_in.weight": (1,)}
MMDIT: Sizes = {"model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": (1,)}
FLUX: Sizes = {
    "double_blocks.0.img_attn.norm.key_norm.scale": (1,),
    "img_in.weight": (1, 4),
    "final_layer.linear.weight": (4, 1),
}

# The tensors by which each family is known, all parts in one file where that is usual.
CHECKPOINTS: dict[str, Sizes] = {
    "sd1": U_NET | VAE | {f"cond_stage_model.transformer.{CLIP}": (1,)},
    "sd2": U_NET | VAE | {"cond_stage_model.model.token_embedding.weight": (1,)},
    "sdxl": U_NET
    | VAE
    | {
        "model.diffusion_model.label_emb.0.0.weight": (1, 1),
        f"conditioner.embedders.0.transformer.{CLIP}": (1,),
        "conditioner.embedders.1.model.positional_embedding": (1,),
    },
    "sd3": MMDIT
    | VAE
    | {
        f"text_encoders.clip_l.transformer.{CLIP}": (1,),
        f"text_encoders.clip_g.transformer.{CLIP}": (1,),
        "text_encoders.t5xxl.transformer.shared.weight": (1,),
    },
    "sd35_medium": MMDIT | {"model.diffusion_model.joint_blocks.0.x_block.attn2.qkv.weight": (1,)},
    "sd35_large": MMDIT | {"model.diffusion_model.joint_blocks.37.x_block.mlp.fc1.weight": (1,)},
    "flux_schnell": FLUX,
    "flux_dev": FLUX | {"guidance_in.in_layer.weight": (1,)},
}


def safetensors(header: Any, data: bytes) -> bytes:
    """A file with this header, as it is, and these bytes behind it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def of_shapes(shapes: Mapping[str, tuple[int, ...]], fill: bytes = b"\0") -> bytes:
    """A sound file with tensors of these shapes, one byte a number."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape)
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [begin, end]}
    return safetensors(header, fill * end)
