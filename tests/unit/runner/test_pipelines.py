"""The pipeline table on a tiny model, in this process."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tests.support.tiny_pipeline import build

from runner.diffusion.pipelines import load
from runner.diffusion.schedulers import CLASSES
from runner.images.metadata import SAMPLERS
from runner.process.memory import release_memory
from shared.models.families import DIFFUSION_SCHEDULERS, FAMILIES, SCHEDULERS
from shared.models.verify import read_model, verify_model
from shared.protocol.messages import GenerateParams, Offload, PresetSpec

# diffusers hands torch tensors to numpy in the way of numpy 1; nothing of ours.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CPU = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build(folder)
    return folder


def params(**changes: object) -> GenerateParams:
    given = {"prompt": "a cat", "width": 64, "height": 64, "steps": 3, "guidance": 3.0}
    return GenerateParams.model_validate(given | changes)


def picture(model: Path, scheduler: str | None = None, seed: int = 1, **changes: object) -> bytes:
    loaded = load("sd", model, CPU, scheduler)
    image, blocked = loaded.picture(params(**changes), seed, lambda step, steps: None)
    assert not blocked
    return image.tobytes()


def test_scheduler_names_and_classes_are_the_same_list() -> None:
    assert tuple(CLASSES) == SCHEDULERS
    assert {row.name for row in CLASSES.values()} == set(SAMPLERS)
    assert all(hasattr(diffusers, row.name) for row in CLASSES.values())


OWN_RULES = [name for name in DIFFUSION_SCHEDULERS if "sigmas" in str(CLASSES[name].options)]


def with_scheduler(model: Path, folder: Path, own: Any) -> Path:
    """The model with another scheduler of its own."""
    shutil.copytree(model, folder)
    shutil.rmtree(folder / "scheduler")
    own.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(own).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


# Not `use_beta_sigmas`, for which diffusers wants scipy.
@pytest.mark.parametrize("rule", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_a_name_means_the_same_whatever_the_folder_s_own_scheduler_does(
    model: Path, tmp_path: Path, rule: str
) -> None:
    own = diffusers.EulerDiscreteScheduler(steps_offset=1, **{rule: True})
    folder = with_scheduler(model, tmp_path / rule, own)
    for name in OWN_RULES:
        options = load("sd", folder, CPU, name).scheduler_options
        on = [key for key in options if key.endswith("_sigmas") and options[key] is True]
        assert on == (["use_karras_sigmas"] if name.endswith("karras") else []), name
        picture(folder, name)  # two rules at once would be refused here
    assert load("sd", folder, CPU, None).scheduler_options[rule]


def test_every_rule_of_a_scheduler_is_set_by_its_row() -> None:
    rules = {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas",
             "use_lu_lambdas"}  # fmt: skip
    for name, row in CLASSES.items():
        known = set(inspect.signature(getattr(diffusers, row.name).__init__).parameters)
        assert known & rules == set(row.options) & rules, name


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "heun"])
def test_latents_are_not_clipped_where_the_folder_says_nothing_about_it(
    model: Path, tmp_path: Path, scheduler: str
) -> None:
    folder = with_scheduler(
        model, tmp_path / "euler", diffusers.EulerDiscreteScheduler(steps_offset=1)
    )
    options = load("sd", folder, CPU, scheduler).scheduler_options
    assert options.get("clip_sample", False) is False
    assert options.get("set_alpha_to_one", False) is False


def test_what_a_folder_says_of_its_last_step_is_kept(model: Path, tmp_path: Path) -> None:
    own = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, steps_offset=1)
    folder = with_scheduler(model, tmp_path / "own", own)
    assert load("sd", folder, CPU, "ddim").scheduler_options["set_alpha_to_one"] is True


def test_every_pipeline_of_the_table_is_one_of_diffusers() -> None:
    pipelines = {family.pipeline for family in FAMILIES.values() if family.pipeline}
    networks = {kind for kind, family in FAMILIES.items() if not family.pipeline}
    assert networks == {"esrgan", "network"}
    assert len(pipelines) == len(FAMILIES) - len(networks)
    assert all(hasattr(diffusers, name) for name in pipelines)


def test_tiny_model_is_small_sound_and_the_same_every_time(model: Path, tmp_path: Path) -> None:
    descriptor = read_model(model)
    verify_model(model, descriptor)
    assert sum(file.size_bytes for file in descriptor.files) < 8_000_000
    build(tmp_path / "again")
    again = read_model(tmp_path / "again")
    assert again.checkpoint_sha256 == descriptor.checkpoint_sha256
    assert again.files == descriptor.files


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("scheduler", [None, *DIFFUSION_SCHEDULERS])
def test_every_scheduler_samples_and_counts_to_its_own_total(
    model: Path, scheduler: str | None, steps: int
) -> None:
    seen: list[tuple[int, int]] = []
    loaded = load("sd", model, CPU, scheduler)
    image, _ = loaded.picture(params(steps=steps), 1, lambda *step: seen.append(step))
    total = seen[-1][1]
    assert seen == [(step, total) for step in range(1, total + 1)]
    assert total >= steps
    assert image.size == (64, 64)
    if scheduler is not None:
        assert loaded.scheduler_class == CLASSES[scheduler].name


def test_seed_prompt_and_scheduler_each_change_the_picture(model: Path) -> None:
    same = picture(model)
    assert picture(model) == same
    others = [
        picture(model, seed=2),
        picture(model, prompt="a dog"),
        picture(model, negative_prompt="a dog"),
        picture(model, scheduler="euler_a"),
        picture(model, guidance=7.0),
    ]
    assert len({same, *others}) == 6


def test_stopping_between_two_steps_leaves_no_picture(model: Path) -> None:
    class Stopped(Exception):
        pass

    steps: list[int] = []

    def stop(step: int, _steps: int) -> None:
        steps.append(step)
        if step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        load("sd", model, CPU, None).picture(params(steps=50), 1, stop)
    assert steps == [1, 2]


def test_smallest_size_and_a_long_prompt_work(model: Path) -> None:
    assert len(picture(model, width=16, height=16, prompt="long " * 500)) == 16 * 16 * 3


def test_size_that_the_pipeline_would_round_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load("sd", model, CPU, None)
    given = loaded.arguments
    monkeypatch.setattr(loaded, "arguments", lambda *asked: given(*asked) | {"width": 32})
    with pytest.raises(ValueError, match="made 32x64 pixels"):
        loaded.picture(params(), 1, lambda step, steps: None)


def test_auto_finds_the_same_pipeline_as_its_own_row(model: Path) -> None:
    loaded = load("auto", model, CPU, None)
    image, _ = loaded.picture(params(), 1, lambda step, steps: None)
    assert image.tobytes() == picture(model)


def test_safety_checker_that_was_not_shipped_is_left_out(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["requires_safety_checker"] = True
    (folder / "model_index.json").write_text(json.dumps(index))
    assert picture(folder) == picture(model)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_preset_decides_the_dtype_of_every_part(
    model: Path, tmp_path: Path, dtype: str, expected: torch.dtype
) -> None:
    folder = tmp_path / "half"
    half = diffusers.StableDiffusionPipeline.from_pretrained(model, dtype=torch.float16)
    half.save_pretrained(folder)
    loaded = load("sd", folder, CPU.model_copy(update={"dtype": dtype}), None)
    parts = loaded.pipeline.components.values()
    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    assert {module.dtype for module in modules} == {expected}
    assert len(modules) == 3


def test_a_folder_with_half_precision_files_alone_is_loaded(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    half = diffusers.StableDiffusionPipeline.from_pretrained(model, dtype=torch.float16)
    half.save_pretrained(folder, variant="fp16")
    assert (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").exists()
    plain = tmp_path / "plain"
    half.save_pretrained(plain)
    assert picture(folder) == picture(plain)


@pytest.mark.parametrize("offload", ["none", "model"])
def test_parts_that_take_turns_draw_the_same_picture(model: Path, offload: Offload) -> None:
    """On a CPU there is nowhere to go, but the hooks that move parts are the real ones."""
    loaded = load("sd", model, CPU.model_copy(update={"offload": offload}), None)
    image, _ = loaded.picture(params(), 1, lambda step, steps: None)
    assert image.tobytes() == picture(model)
    hooked = [hasattr(part, "_hf_hook") for part in (loaded.pipeline.unet, loaded.pipeline.vae)]
    assert hooked == [offload == "model"] * 2


def test_tiling_of_the_vae_is_as_the_preset_says(model: Path) -> None:
    tiled = load("sd", model, CPU.model_copy(update={"vae_tiling": True}), None)
    assert (
        tiled.pipeline.vae.use_tiling,
        load("sd", model, CPU, None).pipeline.vae.use_tiling,
    ) == (
        True,
        False,
    )


def test_hygiene_reports_nothing_on_the_cpu_and_keeps_the_error() -> None:
    with pytest.raises(ValueError, match="mine"), release_memory("cpu") as memory:
        raise ValueError("mine")
    assert memory.figures == {} == memory.read()


def test_hygiene_on_an_unused_gpu_creates_no_context() -> None:
    with release_memory("cuda") as memory:
        pass
    assert memory.figures == {}
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
