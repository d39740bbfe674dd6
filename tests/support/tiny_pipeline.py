"""Build a tiny Stable Diffusion with random weights: the real loading path, no download.

`python -m tests.support.tiny_pipeline DEST` or `build(DEST)`. The pictures are noise and show only
that every part works. The weights are seeded too, so the noise is the same for the same seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from runner.diffusion.pipelines import silence_libraries
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Defaults, Source
from shared.models.verify import write_descriptor

WEIGHT_SEED = 20_240_901
NAME, VERSION = "tiny", "1"
TOKENS = 77  # as in every CLIP of a real model


def build(dest: Path, *, channels: int = 32, steps: int = 4, name: str = NAME) -> None:
    """Write the model and its descriptor to `dest`, which must not hold another model.

    `channels` (a multiple of 32) makes a sampling step slower, `steps` is the default of the model.
    """
    silence_libraries()
    dest.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(WEIGHT_SEED)
        pipeline = _pipeline(channels)
    pipeline.save_pretrained(dest, safe_serialization=True)
    for path in dest.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # weights are written 0600, and a worker may be another user
    descriptor = describe_folder(
        dest,
        DescriptorInput(
            name=name,
            version=VERSION,
            license="Apache-2.0",
            source=Source(uri="tests.support.tiny_pipeline"),
            defaults=Defaults(width=64, height=64, steps=steps, guidance=3.0),
        ),
    )
    write_descriptor(dest, descriptor)


def _pipeline(channels: int) -> StableDiffusionPipeline:
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(channels, 2 * channels),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip_text_config(32)),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def clip_text_config(width: int) -> CLIPTextConfig:
    """A text encoder of two layers for the tokens of `clip_tokenizer`."""
    tokenizer = clip_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """One token per byte, no merges: enough for any prompt, a few kilobytes."""
    letters = byte_letters()
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        model_max_length=TOKENS,
    )


def byte_letters() -> list[str]:
    """The 256 printable characters by which byte-level BPE writes the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


if __name__ == "__main__":
    build(Path(sys.argv[1]))
