"""A model that makes NaN or infinity makes no picture: the step fails and says why."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, VQModel
from safetensors.torch import load_file, save_file
from tests.support import upscalers
from tests.support.families import FAMILIES, build
from tests.unit.runner.test_upscalers import PRESET, enlarged, loaded, picture

from runner.diffusion.finite import check_decoders, check_finite, finite_pixels
from runner.diffusion.pipelines import TextToImage, load
from runner.upscalers import tiling
from runner.upscalers.diffusion import DiffusionUpscaler, load_on_host
from shared.models.descriptor import ModelDescriptor
from shared.models.folder import ONE_FILE
from shared.models.verify import read_model
from shared.protocol.messages import DiffusionParams, GenerateParams

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning"),
]
WRONG = [float("nan"), float("inf"), float("-inf")]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower


def _layer(name: str) -> int:
    """Of a GAN: `model.10.bias` is of the last layer."""
    number = name.split(".")[1]
    return int(number) if number.isdecimal() else 0


def spoil(file: Path, number: float) -> None:
    """Put `number` into the last bias of a decoder, so that all it makes is `number`."""
    weights = load_file(file)
    last = "decoder.conv_out.bias" if file.name != ONE_FILE else max(weights, key=_layer)
    weights[last.replace("weight", "bias")][0] = number
    save_file(weights, file, metadata={"format": "pt"})


def draw(pipeline: TextToImage, side: int = 64) -> Any:
    params = GenerateParams(prompt="a cat", width=side, height=side, steps=2, guidance=3.0)
    return pipeline.picture(params, 1, lambda step, steps: None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", WRONG[:2])
def test_a_decoder_that_makes_no_colours_fails_the_step(
    family: str, number: float, tmp_path: Path
) -> None:
    model = build(family, tmp_path / "m")
    spoil(tmp_path / "m/vae/diffusion_pytorch_model.safetensors", number)
    pipeline = load(model.kind, tmp_path / "m", PRESET, None)
    with pytest.raises(ValueError, match="no colours"):
        draw(pipeline)


@pytest.mark.parametrize("number", WRONG)
def test_one_number_of_one_tile_is_enough(number: float, tmp_path: Path) -> None:
    model = build("sd", tmp_path / "m")
    tiles = PRESET.model_copy(update={"vae_tiling": True})
    pipeline = load(model.kind, tmp_path / "m", tiles, None)
    seen = 0

    def spoil_third(_module: Any, _inputs: Any, made: torch.Tensor) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            made[0, 1, 20, 20] = number

    pipeline.pipeline.vae.decoder.register_forward_hook(spoil_third)
    with pytest.raises(ValueError, match="no colours"):
        draw(pipeline, side=160)
    assert seen > 3
    assert draw(pipeline, side=160)


@pytest.mark.parametrize("number", WRONG)
@pytest.mark.parametrize("tile", [64, 256])
def test_a_gan_that_makes_no_colours_fails_the_step(
    number: float, tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upscalers.esrgan(tmp_path / "gan", scale=2)
    monkeypatch.setattr(tiling.enlarge_in_tiles, "__kwdefaults__", {"tile": tile})
    spoil(tmp_path / "gan" / ONE_FILE, number)
    with pytest.raises(ValueError, match="no colours"):
        enlarged(loaded(tmp_path / "gan", 2), picture(90, 70))


@pytest.mark.parametrize("kind", ["sd_upscale", "sd_latent_upscale"])
def test_a_diffusion_upscaler_that_makes_no_colours_fails_the_step(
    kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    upscalers.diffusion(folder, kind)
    spoil(folder / "vae/diffusion_pytorch_model.safetensors", float("nan"))
    found: ModelDescriptor = read_model(folder)
    params = DiffusionParams.model_validate(
        {"prompt": "a cat", "steps": 1, "guidance": 1.0, "scale": 4, "native_scale": found.scale}
    )
    model = upscalers.spec_of(folder, found)
    upscaler = DiffusionUpscaler(load_on_host(model, "float32"), model, params, PRESET)
    with pytest.raises(ValueError, match="no colours"):
        enlarged(upscaler, picture(64, 64))


def test_a_pipeline_without_a_decoder_is_checked_where_its_pixels_are_cut() -> None:
    pipeline = SimpleNamespace(components={"unet": torch.nn.Linear(1, 1)})
    with pytest.raises(ValueError, match="no colours"), finite_pixels(pipeline):
        np.array([0.5, float("nan")], dtype=np.float32).astype(np.uint8)
    with finite_pixels(pipeline):
        np.array([0.5, 255.0], dtype=np.float32).astype(np.uint8)


@pytest.mark.parametrize("number", WRONG)
def test_latents_that_a_decoder_bounds_or_rounds_are_checked_too(number: float) -> None:
    narrow = {"encoder_block_out_channels": (32, 32), "decoder_block_out_channels": (32, 32)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    parts = {
        "vae": AutoencoderTiny(**narrow, **blocks),
        "movq": VQModel(block_out_channels=(32,), norm_num_groups=8, latent_channels=4),
    }
    check_decoders(SimpleNamespace(components=parts))
    latents = torch.zeros(1, 4, 8, 8)
    latents[0, 0, 0, 0] = number
    for part in parts.values():
        with torch.no_grad(), pytest.raises(ValueError, match="the sampling steps made NaN"):
            part.decode(latents)
        part.decode(torch.zeros(1, 4, 8, 8))


def test_a_decoder_is_checked_once_however_often_it_is_asked() -> None:
    class Decoder(torch.nn.Module):
        def decode(self, latents: torch.Tensor) -> tuple[torch.Tensor]:
            return (latents,)

    pipeline = SimpleNamespace(components={"vae": Decoder(), "tokenizer": "x"})
    check_decoders(pipeline)
    once = pipeline.components["vae"].decode
    check_decoders(pipeline)
    assert pipeline.components["vae"].decode is once
    check_finite(once(torch.zeros(2))[0])
