"""The smallest folder that passes for a model of diffusers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.headers import of_shapes

INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.42.1",
    "requires_safety_checker": False,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "feature_extractor": [None, None],
    "default_sample_size": [64, 64],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"

SOUND = of_shapes({"a": (3,), "b": (5,)})


def write_folder(root: Path) -> Path:
    """Write a Stable Diffusion whose networks have two small tensors each."""
    for name, content in {
        "model_index.json": json.dumps(INDEX),
        "scheduler/scheduler_config.json": "{}",
        "unet/config.json": json.dumps({"sample_size": 8}),
        "vae/config.json": json.dumps({"block_out_channels": [1, 1, 1, 1]}),
        "text_encoder/config.json": "{}",
        "tokenizer/vocab.json": "{}",
        "LICENSE": "free",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / WEIGHTS).write_bytes(SOUND)
    (root / "text_encoder/model.safetensors").write_bytes(SOUND)
    (root / "vae/model.safetensors").write_bytes(SOUND)
    return root
