"""A checkpoint in one file against the configuration beside it, by names, shapes and dtypes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support.families import build
from tests.support.single_files import CONVERTERS, Weights, convert

from runner.diffusion import fit
from runner.diffusion.fit import MOST, MOST_CHARACTERS, Unchecked, misfits

Change = Callable[[Weights], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny model of a family in one file, built once."""
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    root = tmp_path_factory.mktemp("fit")

    def get(family: str) -> Path:
        single = root / f"{family}-single"
        if not single.exists():
            build(family, root / family)
            convert(family, root / family, single)
        return single

    return get


def changed(model: Path, to: Path, change: Change) -> Path:
    shutil.copytree(model, to)
    weights = dict(load_file(model / "model.safetensors"))
    change(weights)
    save_file(weights, to / "model.safetensors")
    return to


def find(weights: Weights, *pieces: str) -> str:
    """The first name with these pieces."""
    return next(name for name in sorted(weights) if all(piece in name for piece in pieces))


@pytest.mark.parametrize("family", CONVERTERS)
def test_a_file_that_a_step_can_load_fits(family: str, model: Callable[[str], Path]) -> None:
    assert misfits(model(family)) == []


def test_parts_that_lie_beside_the_file_are_not_looked_for_in_it(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    def take_encoder_away(weights: Weights) -> None:
        for name in [name for name in weights if name.startswith("cond_stage_model.")]:
            del weights[name]

    single = changed(model("sd"), tmp_path / "m", take_encoder_away)
    assert any(found.startswith("text_encoder: ") for found in misfits(single))
    folder = model("sd").with_name("sd")
    shutil.copytree(folder / "text_encoder", single / "config/text_encoder", dirs_exist_ok=True)
    assert misfits(single) == []


def drop(*pieces: str) -> Change:
    def change(weights: Weights) -> None:
        del weights[find(weights, *pieces)]

    return change


def drop_all(piece: str) -> Change:
    def change(weights: Weights) -> None:
        for name in [name for name in weights if piece in name]:
            del weights[name]

    return change


def grow(*pieces: str, by: int = 2) -> Change:
    """More along the first side: 154 text positions instead of 77, as in longer CLIPs."""

    def change(weights: Weights) -> None:
        name = find(weights, *pieces)
        weights[name] = torch.cat([weights[name]] * by).contiguous()

    return change


def cast(dtype: torch.dtype, *pieces: str) -> Change:
    def change(weights: Weights) -> None:
        name = find(weights, *pieces)
        weights[name] = weights[name].to(dtype)

    return change


def copy(what: str, to: str) -> Change:
    def change(weights: Weights) -> None:
        for name in [name for name in weights if what in name]:
            weights[name.replace(what, to)] = weights[name].clone()

    return change


@pytest.mark.parametrize(
    ("family", "change", "part", "says"),
    [
        ("sd", grow("position_embedding.weight"), "text_encoder", "[154, "),
        ("sd2", grow("positional_embedding"), "text_encoder", "position_embedding.weight is ["),
        ("sd3", grow("clip_l", "position_embedding.weight"), "text_encoder", " is ["),
        ("sd", grow("first_stage_model.decoder.conv_in.bias"), "vae", "conv_in.bias is ["),
        ("sd", grow("middle_block", "emb_layers", "weight"), "unet", " is ["),
        ("sd", drop_all("middle_block."), "unet", ""),
        ("sd", drop_all("first_stage_model.decoder.mid."), "vae", " is missing"),
        ("sd", drop_all("text_model.encoder.layers.0."), "text_encoder", " is missing"),
        ("sd3", drop_all("joint_blocks.0.x_block.attn"), "transformer", " is missing"),
        ("sd", copy("text_model.encoder.layers.0.", "text_model.encoder.layers.9."),
         "text_encoder", "no place"),
        ("sd3", copy("encoder.block.0.", "encoder.block.9."), "text_encoder_3", "no place"),
        ("sd", cast(torch.int8, "out.2.weight"), "unet", "torch.int8, which holds no weights"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_part(
    family: str,
    change: Change,
    part: str,
    says: str,
    model: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    found = misfits(changed(model(family), tmp_path / "m", change))
    assert found
    assert len(found) <= MOST
    assert all(len(each) <= MOST_CHARACTERS for each in found)
    assert any(each.startswith(f"{part}: ") and says in each for each in found), found


def test_the_file_of_another_family_does_not_fit(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    for family, other in (("sd", "sd2"), ("sdxl", "sd")):
        single = tmp_path / f"{family}-{other}"
        shutil.copytree(model(other), single)
        shutil.copy(model(family) / "model.safetensors", single)
        assert misfits(single), (family, other)


def test_half_precision_and_names_that_nobody_needs_fit(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    def change(weights: Weights) -> None:
        for name in list(weights):
            weights[name] = weights[name].to(torch.bfloat16)
        weights["model_ema.decay"] = torch.zeros(())
        weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(
            77
        )[None]

    assert misfits(changed(model("sd"), tmp_path / "m", change)) == []


def test_a_configuration_of_other_sizes_does_not_fit(
    model: Callable[[str], Path], tmp_path: Path
) -> None:
    for part, key, value in (
        ("unet", "layers_per_block", 3),
        ("text_encoder", "num_hidden_layers", 9),
        ("vae", "latent_channels", 16),
    ):
        single = tmp_path / f"{part}-{key}"
        shutil.copytree(model("sd"), single)
        path = single / "config" / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        found = misfits(single)
        assert any(each.startswith(f"{part}: ") for each in found), (part, key, found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unet/config.json": {"sample_size": [8, 8], "layers_per_block": 3}}, "unet: "),
        ({"text_encoder/config.json": {"num_hidden_layers": 9}}, "text_encoder: "),
        ({"vae/config.json": {"latent_channels": 16}}, "vae: "),
        ({"unet/config.json": {"down_block_types": ["os"]}}, "unet: "),
        ({"text_encoder/config.json": {"hidden_act": "exec"}}, "text_encoder: "),
        ({"scheduler/scheduler_config.json": {"beta_schedule": "\x1b]0;x\x07"}}, "scheduler: "),
        ({"scheduler/scheduler_config.json": {"beta_start": "x"}}, "scheduler: "),
    ],
)
def test_a_folder_that_no_step_could_load_does_not_fit(
    change: dict[str, dict[str, object]],
    says: str,
    model: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    folder = model("sd").with_name("sd")
    assert misfits(folder) == []
    shutil.copytree(folder, tmp_path / "m")
    for name, values in change.items():
        path = tmp_path / "m" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))
    assert any(found.startswith(says) for found in misfits(tmp_path / "m"))


@pytest.mark.parametrize("family", ["sd3", "sdxl"])
def test_a_folder_of_other_parts_fits(family: str, model: Callable[[str], Path]) -> None:
    assert misfits(model(family).with_name(family)) == []


def test_a_dtype_that_is_not_known_is_left_to_the_step(
    model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(fit.DTYPES, "F32")
    with pytest.raises(Unchecked, match="has the dtype F32"):
        misfits(model("sd"))
