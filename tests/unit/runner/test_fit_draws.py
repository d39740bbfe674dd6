"""What loads and cannot draw: odd values of configurations, and parts that do not fit together."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tests.support.families import build
from tests.support.tiny_pipeline import clip_tokenizer

from runner.diffusion.fit import misfits
from runner.diffusion.fit_schedulers import misfits_of_noise, misfits_of_scheduler
from runner.diffusion.fit_values import (
    misfits_of_autoencoder,
    misfits_of_epsilons,
    misfits_of_tokenizer,
    misfits_of_values,
)
from runner.diffusion.schedulers import CLASSES
from shared.models.components import CLASSES as ALLOWED

# Libraries warn of what they will change.
pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 25
SCHEDULERS = sorted(name for name in ALLOWED["diffusers"] if name.endswith("Scheduler"))


# Schedulers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_that_a_folder_may_name_can_sample(name: str) -> None:
    assert list(misfits_of_scheduler(getattr(diffusers, name)(), STEPS)) == []


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_scheduler_that_a_job_may_name_can_sample(name: str) -> None:
    row = CLASSES[name]
    scheduler = getattr(diffusers, row.name)(**row.options, **row.unsaid)
    assert list(misfits_of_scheduler(scheduler, STEPS)) == []


def cannot_sample(name: str, **config: Any) -> str:
    """Why, in the words of a misfit or of the library; empty: it can."""
    try:
        return "; ".join(misfits_of_scheduler(getattr(diffusers, name).from_config(config), STEPS))
    except Exception as error:  # what `fit.misfits` collects
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    "config",
    [
        {"prediction_type": "flow"},
        {"prediction_type": None},
        {"prediction_type": ["epsilon"]},
        {"timestep_spacing": "lagging"},
        {"timestep_spacing": 1},
        {"beta_schedule": "exp"},
        {"beta_schedule": None},
        {"trained_betas": []},
        {"trained_betas": [0.1, 0.1, 0.1]},
        {"trained_betas": "betas.npy"},
        {"trained_betas": [math.inf] * 1000},
        {"trained_betas": [2.0] * 1000},
        {"num_train_timesteps": 10},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": -1000},
        {"num_train_timesteps": "1000"},
        {"num_train_timesteps": 1000.5},
        {"beta_end": 1e308 * 10},
        {"beta_start": -1.0, "beta_schedule": "scaled_linear"},
        {"steps_offset": 100_000},
        {"steps_offset": "1"},
        {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {"thresholding": True, "dynamic_thresholding_ratio": 5},
    ],
    ids=str,
)
def test_a_scheduler_that_would_fail_in_each_job_is_named(config: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"clip_sample": False, "set_alpha_to_one": False}
    assert cannot_sample("DDIMScheduler", **usual) == ""
    assert cannot_sample("DDIMScheduler", **usual | config)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("EulerDiscreteScheduler", {"beta_start": 0.0, "beta_end": 0.0}),
        ("EulerDiscreteScheduler", {"interpolation_type": "cubic"}),
        ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_most"}),
        ("DPMSolverMultistepScheduler", {"solver_type": "rk4", "algorithm_type": "x"}),
        ("DPMSolverMultistepScheduler", {"solver_order": "2"}),
        ("LCMScheduler", {"timestep_scaling": "x"}),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 0}),
        ("FlowMatchEulerDiscreteScheduler", {"shift": "3"}),
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": "x"}),
        ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 0}),
    ],
    ids=str,
)
def test_other_schedulers_that_would_fail_are_named(name: str, config: dict[str, Any]) -> None:
    assert cannot_sample(name) == ""
    assert cannot_sample(name, **config)


def test_a_scheduler_that_cannot_noise_what_is_enlarged_is_named() -> None:
    assert list(misfits_of_noise(diffusers.DDPMScheduler())) == []
    assert list(misfits_of_noise(diffusers.DDPMScheduler(trained_betas=[math.inf] * 1000)))


# Values -------------------------------------------------------------------------------------------

AUTOENCODER = dict(diffusers.AutoencoderKL(block_out_channels=(32,)).config)


@pytest.mark.parametrize("value", [0, 0.0, -0.18, "0.18", math.nan, math.inf, None, True, [0.18]])
def test_a_scaling_factor_that_cannot_divide_is_named(value: object) -> None:
    assert list(misfits_of_autoencoder(AUTOENCODER, shifts=False)) == []
    found = list(misfits_of_autoencoder(AUTOENCODER | {"scaling_factor": value}, shifts=False))
    assert [each.partition(" ")[0] for each in found] == ["scaling_factor"]


@pytest.mark.parametrize(
    "config",
    [
        {"shift_factor": "0"},
        {"shift_factor": math.inf},
        {"latents_mean": [0.0] * 3},
        {"latents_mean": "0,0,0,0"},
        {"latents_std": [1.0, 1.0, 1.0, 0.0]},
        {"latents_std": [1.0, 1.0, 1.0, None]},
        {"latents_std": 1.0},
        {"block_out_channels": [8, 8, 16, 16], "sample_size": 0},
        {"block_out_channels": [8, 8, 16, 16], "sample_size": 8},
        {"block_out_channels": [8, 8, 16, 16], "sample_size": -512},
    ],
    ids=str,
)
def test_other_values_of_an_autoencoder_are_named(config: dict[str, Any]) -> None:
    assert len(list(misfits_of_autoencoder(AUTOENCODER | config, shifts=False))) == 1


def test_a_shift_is_missed_only_where_a_pipeline_adds_it() -> None:
    assert list(misfits_of_autoencoder(AUTOENCODER, shifts=True))
    assert not list(misfits_of_autoencoder(AUTOENCODER | {"shift_factor": 0}, shifts=True))


@pytest.mark.parametrize(
    "config",
    [
        {"norm_eps": "0.00001"},
        {"norm_eps": -1e-5},
        {"norm_eps": 1.0},
        {"norm_num_groups": "8"},
        {"norm_num_groups": 1 << 40},
        {"sample_size": "64"},
        {"sample_size": ["64", 64]},
        {"sample_size": 10**12},
        {"layers_per_block": math.inf},
        {"use_linear_projection": "yes"},
        {"flip_sin_to_cos": "false"},
    ],
    ids=str,
)
def test_values_that_a_model_would_meet_in_a_step_are_named(config: dict[str, Any]) -> None:
    usual = dict(diffusers.UNet2DConditionModel(block_out_channels=(32, 64, 64, 64)).config)
    assert list(misfits_of_values(diffusers.UNet2DConditionModel, usual)) == []
    found = list(misfits_of_values(diffusers.UNet2DConditionModel, usual | config))
    assert {each.partition(" ")[0] for each in found} == set(config)


@pytest.mark.parametrize("value", ["1e-6", -1, 1, math.nan, True, [1e-6]])
def test_an_epsilon_of_any_library_and_depth_is_a_small_number(value: object) -> None:
    for name in ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"):
        assert list(misfits_of_epsilons({"text_config": {name: value}}))
        assert not list(misfits_of_epsilons({"text_config": {name: 1e-6}}))


# Tokenizers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0, -1, 154, 10**30, "77", 77.0, None])
def test_a_tokenizer_that_makes_more_tokens_than_are_read_is_named(most: object) -> None:
    tokenizer = clip_tokenizer()
    encoder = {"vocab_size": len(tokenizer), "max_position_embeddings": 77}
    assert list(misfits_of_tokenizer(tokenizer, encoder, "CLIPTextModel")) == []
    tokenizer.model_max_length = most
    assert list(misfits_of_tokenizer(tokenizer, encoder, "CLIPTextModel"))


@pytest.mark.parametrize("kind", ["CLIPTextModel", "T5EncoderModel", "Qwen3Model"])
def test_a_tokenizer_with_more_tokens_than_its_encoder_is_named(kind: str) -> None:
    encoder = {"vocab_size": 40, "max_position_embeddings": 77}
    (found,) = misfits_of_tokenizer(clip_tokenizer(), encoder, kind)
    assert "its text encoder knows 40" in found


def test_a_processor_is_given_words_as_words() -> None:
    """It would take the first thing that it is given for a picture."""

    def processor(images: object) -> None:
        raise ValueError(images)

    processor.tokenizer = clip_tokenizer()  # type: ignore[attr-defined]
    encoder = {"vocab_size": len(clip_tokenizer())}
    assert list(misfits_of_tokenizer(processor, encoder, "Qwen3Model")) == []


# Whole folders ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny model, built once."""
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    root = tmp_path_factory.mktemp("models")

    def get(family: str) -> Path:
        if not (root / family).exists():
            build(family, root / family)
        return root / family

    return get


@pytest.mark.parametrize("family", ["flux", "lcm", "pixart", "chroma"])
def test_what_draws_fits(family: str, model: Callable[[str], Path]) -> None:
    assert misfits(model(family)) == []


@pytest.mark.parametrize(
    ("family", "name", "change", "says"),
    [
        ("sd", "vae/config.json", {"scaling_factor": 0}, "vae: scaling_factor"),
        ("sd", "vae/config.json", {"scaling_factor": None}, "vae: scaling_factor"),
        ("sd", "vae/config.json", {"norm_eps": "1"}, "vae: norm_eps"),
        ("sd3", "vae/config.json", {"shift_factor": None}, "vae: shift_factor"),
        ("sd", "unet/config.json", {"norm_eps": "1"}, "unet: norm_eps"),
        ("sd", "text_encoder/config.json", {"layer_norm_eps": "1"}, "text_encoder: "),
        ("sd", "tokenizer/tokenizer_config.json", {"model_max_length": 154}, "tokenizer: model_m"),
        ("sd", "scheduler/scheduler_config.json", {"prediction_type": "x"}, "scheduler: "),
        ("sd", "scheduler/scheduler_config.json", {"num_train_timesteps": 9}, "scheduler: "),
        ("flux", "scheduler/scheduler_config.json", {"time_shift_type": "x"}, "scheduler: "),
    ],
)
def test_a_folder_that_loads_and_cannot_draw_does_not_fit(
    family: str,
    name: str,
    change: dict[str, object],
    says: str,
    model: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    shutil.copytree(model(family), tmp_path / "m")
    rewrite(tmp_path / "m" / name, change)
    found = misfits(tmp_path / "m")
    assert any(each.startswith(says) for each in found), found


def rewrite(path: Path, change: Mapping[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        ("sd", "FlowMatchEulerDiscreteScheduler"),
        ("flux", "DDIMScheduler"),
    ],
)
def test_a_scheduler_that_its_pipeline_cannot_call_is_named(
    family: str, scheduler: str, model: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(model(family), tmp_path / "m")
    rewrite(tmp_path / "m/model_index.json", {"scheduler": ["diffusers", scheduler]})
    shutil.rmtree(tmp_path / "m/scheduler")
    getattr(diffusers, scheduler)().save_pretrained(tmp_path / "m/scheduler")
    assert any(f"cannot sample with a {scheduler}" in each for each in misfits(tmp_path / "m"))


@pytest.mark.parametrize(
    ("family", "part", "of", "instead", "says"),
    [
        (
            "sd",
            "text_encoder",
            "sd2",
            "text_encoder",
            "_dim is 32, and the parts beside it make 48",
        ),
        ("sd", "unet", "sdxl", "unet", "cross_attention_dim is 80"),
        ("sd3", "text_encoder_3", "flux", "text_encoder_2", "joint_attention_dim is 96"),
        ("flux", "text_encoder_2", "sd3", "text_encoder_3", "joint_attention_dim is 48"),
    ],
)
def test_sound_parts_of_two_models_do_not_fit_one_another(
    family: str,
    part: str,
    of: str,
    instead: str,
    says: str,
    model: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    shutil.copytree(model(family), tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / part)
    shutil.copytree(model(of) / instead, tmp_path / "m" / part)
    assert any(says in each for each in misfits(tmp_path / "m"))
