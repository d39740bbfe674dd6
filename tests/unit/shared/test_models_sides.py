"""Which sides a model draws, by its pipeline's class and its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.models.auto_pipelines import AUTO_PIPELINES
from shared.models.families import FAMILIES
from shared.models.sides import native_side, side_limits, side_multiple

KL = {"vae": {"block_out_channels": [1, 1, 1, 1]}}
QWEN = {"vae": {"temperal_downsample": [False, True, True]}}
DC = {"vae": {"encoder_block_out_channels": [1] * 6}}


def transformer(**config: Any) -> dict[str, Any]:
    return {"transformer": config}


def unet(**config: Any) -> dict[str, Any]:
    return {"unet": config}


def write(folder: Path, parts: dict[str, Any]) -> Path:
    for part, config in parts.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        name = "config.json" if part else "model_index.json"
        (folder / part / name).write_text(json.dumps(config))
    return folder


# What diffusers 0.42 checks, or what its latents are made of; and what it draws unless it is told.
PUBLISHED = [
    ("FluxPipeline", KL | transformer(patch_size=1), 16, 1024),
    ("FluxKontextPipeline", KL | transformer(patch_size=1), 16, 1024),
    ("Flux2Pipeline", KL | transformer(patch_size=1), 16, 1024),
    ("ChromaPipeline", KL | transformer(patch_size=1), 16, 1024),
    ("OvisImagePipeline", KL | transformer(patch_size=1), 16, 1024),
    ("QwenImagePipeline", QWEN | transformer(patch_size=2), 16, 1024),
    ("QwenImageEditPipeline", QWEN | transformer(patch_size=2), 16, 1024),
    ("NucleusMoEImagePipeline", QWEN | transformer(patch_size=2), 16, 1024),
    ("QwenImage21Pipeline", {"vae": {}}, 32, 1024),
    ("AuraFlowPipeline", KL | transformer(sample_size=64, patch_size=2), 16, 512),
    ("ZImagePipeline", KL | transformer(), 16, 1024),
    ("LuminaPipeline", KL | transformer(sample_size=128, patch_size=2), 16, 1024),
    ("Lumina2Pipeline", KL | transformer(sample_size=128, patch_size=2), 16, 1024),
    ("PixArtSigmaPipeline", KL | transformer(sample_size=128, patch_size=2), 16, 1024),
    ("StableDiffusion3PAGPipeline", KL | transformer(sample_size=128, patch_size=2), 16, 1024),
    ("CogView3PlusPipeline", KL | transformer(sample_size=128, patch_size=2), 16, 1024),
    ("CogView4Pipeline", KL | transformer(sample_size=128, patch_size=2), 16, 1024),
    ("HunyuanDiTPipeline", KL | transformer(sample_size=128, patch_size=2), 16, 1024),
    ("GlmImagePipeline", KL | transformer(sample_size=128, patch_size=2), 32, 1024),
    ("SanaPipeline", DC | transformer(sample_size=32, patch_size=1), 32, 1024),
    ("Ideogram4Pipeline", KL | transformer(), 16, 2048),
    ("Krea2Pipeline", QWEN | transformer(), 16, 1024),
    ("PRXPipeline", KL | transformer(patch_size=2), 16, 512),
    ("PRXPipeline", DC | transformer(patch_size=1) | {"": {"default_sample_size": 1024}}, 32, 1024),
    ("LatentConsistencyModelPipeline", KL | unet(sample_size=96), 8, 768),
    ("StableDiffusionPAGPipeline", KL | unet(sample_size=64), 8, 512),
    ("StableDiffusionXLPAGPipeline", KL | unet(sample_size=128), 8, 1024),
    ("IFPipeline", unet(sample_size=64), 8, 64),
    ("Kandinsky3Pipeline", unet(sample_size=128), 64, 1024),
    ("KandinskyCombinedPipeline", unet(sample_size=64), 64, 512),
    ("KandinskyV22CombinedPipeline", unet(sample_size=64), 64, 512),
    ("StableCascadeCombinedPipeline", {}, 128, 1024),
    ("WuerstchenCombinedPipeline", {}, 128, 1024),
]


@pytest.mark.parametrize(("name", "parts", "multiple", "side"), PUBLISHED)
def test_a_class_of_auto_has_its_own_sides(
    name: str, parts: dict[str, Any], multiple: int, side: int, tmp_path: Path
) -> None:
    folder, row = write(tmp_path, parts), AUTO_PIPELINES[name]
    assert side_multiple(folder, FAMILIES["auto"], row) == multiple
    assert native_side(folder, FAMILIES["auto"], row) == side
    assert side % multiple == 0


def test_every_class_of_auto_has_a_line_or_a_relative_that_has_one() -> None:
    listed = [AUTO_PIPELINES[name] for name, *_ in PUBLISHED]
    assert all(row in listed for row in AUTO_PIPELINES.values())


def test_an_autoencoder_that_shrinks_more_wants_larger_multiples(tmp_path: Path) -> None:
    deep = {"vae": {"block_out_channels": [1] * 5}} | transformer(patch_size=1)
    folder = write(tmp_path, deep)
    assert side_multiple(folder, FAMILIES["sd"], None) == 16
    assert side_multiple(folder, FAMILIES["flux"], AUTO_PIPELINES["FluxPipeline"]) == 32
    assert side_multiple(folder, FAMILIES["auto"], AUTO_PIPELINES["ChromaPipeline"]) == 32


@pytest.mark.parametrize("odd", [True, 0, -1, 2.0, "64", [64, 64], None, {}])
def test_a_configuration_that_makes_no_sense_says_nothing(odd: object, tmp_path: Path) -> None:
    folder = write(tmp_path, KL | transformer(sample_size=odd, patch_size=odd))
    row = AUTO_PIPELINES["PixArtSigmaPipeline"]
    assert side_multiple(folder, FAMILIES["auto"], row) == 8
    assert native_side(folder, FAMILIES["auto"], row) == 1024


def test_limits_are_multiples_too() -> None:
    limits = side_limits(FAMILIES["auto"], 1024, 128)
    assert limits["width"] == limits["height"] == {"min": 256, "max": 4096}
    assert side_limits(FAMILIES["auto"], 64, 32)["width"] == {"min": 32, "max": 256}
