"""GAN and diffusion upscalers with random weights: loading, tiles without seams, scales, stops."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.support import upscalers

from runner.process.cancellation import Cancelled
from runner.upscalers import tiling
from runner.upscalers.base import Upscaler
from runner.upscalers.diffusion import DiffusionUpscaler, load_on_host
from runner.upscalers.gan import GanUpscaler
from runner.upscalers.networks import load_network, torchvision_stand_in
from shared.errors import ModelUnavailable
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source
from shared.models.folder import ONE_FILE
from shared.models.verify import check_installed, read_model
from shared.protocol.messages import DiffusionParams, GanParams, InputSpec, PresetSpec

# numpy 2 in diffusers' schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower


PRESET = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    bands = [Image.effect_noise((width, height), 40 + 9 * n) for n in range(len(mode))]
    return Image.merge(mode, bands)


def given(image: Image.Image, seed: int = 7) -> InputSpec:
    return InputSpec(
        item_index=0,
        format="png",
        width=image.width,
        height=image.height,
        seed=seed,
        sha256="0" * 64,
    )


def enlarged(upscaler: Upscaler, image: Image.Image, seed: int = 7) -> Image.Image:
    return upscaler.enlarge(image, given(image, seed), lambda done, total: None)


# GAN ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gan") / "x2"
    upscalers.esrgan(folder, scale=2)
    return folder


@pytest.fixture(scope="module")
def gan(gan_folder: Path) -> GanUpscaler:
    return loaded(gan_folder, 2)


def loaded(folder: Path, native: int, scale: Literal[2, 4] = 2) -> GanUpscaler:
    model = upscalers.spec_of(folder, read_model(folder))
    params = GanParams(scale=scale, native_scale=native)
    return GanUpscaler(load_network(folder / ONE_FILE), model, params, PRESET)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_gan_makes_a_picture_as_much_larger_as_it_was_made_for(
    gan: GanUpscaler, mode: str
) -> None:
    larger = enlarged(gan, picture(40, 24, mode))
    assert larger.size == (80, 48)
    assert larger.mode == ("RGBA" if mode == "RGBA" else "RGB")


@pytest.mark.parametrize(("blocks", "height", "count"), [(1, 90, 4), (4, 70, 4), (23, 40, 2)])
def test_tiles_leave_no_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, height: int, count: int
) -> None:
    """23 blocks are what the networks have that people use."""
    upscalers.esrgan(tmp_path / "gan", blocks=blocks, strong=True)
    gan, image = loaded(tmp_path / "gan", 2), picture(90, height)
    whole = np.asarray(enlarged(gan, image), dtype=int)
    assert whole.std() > 20
    monkeypatch.setattr(tiling.enlarge_in_tiles, "__kwdefaults__", {"tile": 64})
    tiles: list[tuple[int, int]] = []
    pieces = gan.enlarge(image, given(image), lambda done, total: tiles.append((done, total)))
    assert tiles == [(n + 1, count) for n in range(count)]
    assert abs(np.asarray(pieces, dtype=int) - whole).max() <= 1  # of 255: a rounding


@pytest.mark.parametrize("length", [1, 63, 64, 65, 96, 97, 150, 1000])
def test_the_weights_of_all_tiles_sum_to_one(length: int) -> None:
    begins = tiling.tile_starts(length, 64)
    total = torch.zeros(2 * length)
    for begin, share in zip(begins, tiling.blend_weights(begins, 64, length, 2), strict=True):
        assert share.min() >= 0
        total[2 * begin : 2 * begin + len(share)] += share
    assert torch.allclose(total, torch.ones(2 * length))


def test_a_network_is_never_given_more_than_a_tile() -> None:
    seen: list[torch.Size] = []

    def enlarge(piece: torch.Tensor) -> torch.Tensor:
        seen.append(piece.shape)
        return piece.repeat_interleave(2, 1).repeat_interleave(2, 2)

    source = torch.rand(3, 200, 300)
    made = tiling.enlarge_in_tiles(source, 2, enlarge, lambda done, total: None, tile=64)
    assert {max(shape[1:]) for shape in seen} == {64}
    assert torch.allclose(made[:, ::2, ::2], source, atol=1e-6)


def test_a_stop_comes_between_two_tiles(gan: GanUpscaler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling.enlarge_in_tiles, "__kwdefaults__", {"tile": 64})
    image, done = picture(150, 101), 0

    def stop(_done: int, _total: int) -> None:
        nonlocal done
        done += 1
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        gan.enlarge(image, given(image), stop)
    assert done == 2


@pytest.mark.parametrize("scale", [2, 4])
def test_the_folder_of_a_gan_describes_itself(tmp_path: Path, scale: int) -> None:
    folder = tmp_path / "gan"
    made = upscalers.esrgan(folder, scale=scale)
    assert (made.kind, made.scale, made.capabilities) == ("esrgan", scale, ("upscale",))
    assert (made.limits.width.min, made.limits.height.max) == (16, 4096)  # it works in tiles
    assert check_installed(folder, checkpoint_sha256=made.checkpoint_sha256) == made
    assert loaded(folder, scale).name == "tiny-gan@1"


def test_the_later_names_of_the_family_are_known_too(tmp_path: Path) -> None:
    tensors = {
        "conv_first.weight": torch.zeros(4, 12, 3, 3),  # unshuffled: four times the channels
        "conv_up1.weight": torch.zeros(4, 4, 3, 3),
        "conv_up2.weight": torch.zeros(4, 4, 3, 3),
        "conv_last.weight": torch.zeros(3, 4, 3, 3),
    }
    dense = {"body.0.rdb1.conv1.weight": torch.zeros(4, 4, 3, 3)}
    save_file(tensors | dense, tmp_path / ONE_FILE)
    described = describe_folder(tmp_path, DescriptorInput(name="x", version="1", source=_source()))
    assert (described.kind, described.scale) == ("esrgan", 2)
    save_file(tensors, tmp_path / ONE_FILE)  # as SwinIR's: the ends are the same, the body is not
    with pytest.raises(ModelUnavailable, match="no model that is known here"):
        describe_folder(tmp_path, DescriptorInput(name="x", version="1", source=_source()))


def _source() -> Source:
    return Source(uri="tests")


def test_a_file_of_another_network_is_no_model(tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(1)}, tmp_path / ONE_FILE)
    with pytest.raises(ModelUnavailable, match="no model that is known here"):
        describe_folder(tmp_path, DescriptorInput(name="x", version="1", source=_source()))


def test_a_network_that_is_not_what_its_descriptor_says_is_not_used(gan_folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match="2 times as large, not 4 times"):
        loaded(gan_folder, 4)


def test_a_network_that_nobody_knows_is_refused(tmp_path: Path, gan_folder: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    tensors = load_file(gan_folder / ONE_FILE)
    save_file({f"odd.{name}.odd": tensor for name, tensor in tensors.items()}, folder / ONE_FILE)
    with pytest.raises(ModelUnavailable, match="recognised"):
        load_network(folder / ONE_FILE)


def test_a_missing_package_is_named(gan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ModelUnavailable, match=r"spandrel.*dreamforge\[gan\]"):
        loaded(gan_folder, 2)


def test_the_stand_in_is_gone_after_the_import() -> None:
    before = sys.modules.get("torchvision")
    with torchvision_stand_in():
        assert "torchvision" in sys.modules
    assert sys.modules.get("torchvision") is before


# Diffusion ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "native"), [("sd_upscale", 4), ("sd_latent_upscale", 2)])
def test_a_diffusion_upscaler_draws_larger_by_seed_and_prompt(
    tmp_path: Path, kind: str, native: int
) -> None:
    folder = tmp_path / kind
    made = upscalers.diffusion(folder, kind)
    assert (made.kind, made.scale, made.capabilities) == (kind, native, ("upscale",))
    assert check_installed(folder, checkpoint_sha256=made.checkpoint_sha256) == made
    params = DiffusionParams(scale=2, native_scale=native, prompt="a cat", steps=3, guidance=2.0)
    model = upscalers.spec_of(folder, made)
    upscaler = DiffusionUpscaler(load_on_host(model, "float32"), model, params, PRESET)
    side = 128 // native
    image, steps = picture(side, side), []
    first = upscaler.enlarge(image, given(image), lambda done, total: steps.append((done, total)))
    assert first.size == (128, 128)
    assert steps[-1] == (3, 3) and steps == sorted(steps)
    assert enlarged(upscaler, image).tobytes() == first.tobytes()
    assert enlarged(upscaler, image, seed=8).tobytes() != first.tobytes()

    def stop(_done: int, _total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        upscaler.enlarge(image, given(image), stop)


def test_a_diffusion_upscaler_decodes_in_tiles_where_the_preset_says_so(tmp_path: Path) -> None:
    made = upscalers.diffusion(tmp_path / "x4", "sd_upscale")
    params = DiffusionParams(scale=4, native_scale=4, prompt="a cat", steps=1, guidance=2.0)
    model = upscalers.spec_of(tmp_path / "x4", made)
    image = picture(32, 24)
    for tiles in (False, True):
        preset = PRESET.model_copy(update={"vae_tiling": tiles})
        upscaler = DiffusionUpscaler(load_on_host(model, "float32"), model, params, preset)
        assert upscaler.pipeline.vae.use_tiling is tiles
        assert enlarged(upscaler, image).size == (128, 96)
    assert upscaler.remarks == ()
    told = {"prompt": "a " * 90, "negative_prompt": "red", "guidance": 1.0}
    unread = DiffusionUpscaler(upscaler.pipeline, model, params.model_copy(update=told), PRESET)
    cut, ignored = unread.remarks
    assert (cut.code, cut.payload and cut.payload["limit"]) == ("prompt.truncated", 77)
    assert ignored.code == "prompt.no_effect"
