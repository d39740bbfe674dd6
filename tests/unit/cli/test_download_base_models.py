"""Where a checkpoint's configuration comes from: the folders that diffusers would ask for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS

from cli.download.base_models import resolve_config
from cli.errors import Failure
from cli.models.install import bundled_models
from shared.models.checkpoints import Checkpoint
from shared.models.families import BaseModelName, base_repository

NAME_IN_DIFFUSERS: dict[BaseModelName, str] = {
    "sd1": "v1",
    "sd2": "v2",
    "sdxl": "xl_base",
    "sd3": "sd3",
    "sd35_medium": "sd35_medium",
    "sd35_large": "sd35_large",
    "flux_dev": "flux-dev",
    "flux_schnell": "flux-schnell",
}


def checkpoint(*parts: str) -> Checkpoint:
    return Checkpoint(base_model="sd1", kind="sd", parts=frozenset(parts))


HALF = checkpoint("unet", "text_encoder")
# Its makers withdrew it, and diffusers still names it.
WITHDRAWN = {"sd2"}


@pytest.mark.parametrize("name", sorted(set(get_args(BaseModelName)) - WITHDRAWN))
def test_the_base_of_a_family_is_the_one_of_the_installed_diffusers(name: BaseModelName) -> None:
    theirs = DIFFUSERS_DEFAULT_PIPELINE_PATHS[NAME_IN_DIFFUSERS[name]]
    assert theirs == {"pretrained_model_name_or_path": base_repository(name)}


def test_a_folder_gives_its_configuration_and_the_weights_that_lack(tmp_path: Path) -> None:
    resolved = resolve_config(HALF, str(bundled_models()[0]), tmp_path)
    paths = {file.path for file in resolved.files}
    assert {path for path in paths if path.endswith(".safetensors")} == {
        "config/vae/diffusion_pytorch_model.safetensors"
    }
    assert "config/tokenizer/vocab.json" in paths
    assert not [path for path in paths if "LICENSE" in path or "README" in path]


def test_weights_of_what_is_no_part_of_the_family_are_left(tmp_path: Path) -> None:
    shutil.copytree(bundled_models()[0], tmp_path / "folder")
    shutil.copytree(tmp_path / "folder/vae", tmp_path / "folder/vae_1_0")
    resolved = resolve_config(HALF, str(tmp_path / "folder"), tmp_path)
    assert [file.path for file in resolved.files if file.path.endswith(".safetensors")] == [
        "config/vae/diffusion_pytorch_model.safetensors"
    ]


def test_one_that_was_trained_otherwise_needs_a_configuration_of_its_own(
    tmp_path: Path,
) -> None:
    other = replace(checkpoint("unet", "text_encoder", "vae"), trained="v-prediction")
    with pytest.raises(Failure, match="trained with v-prediction") as caught:
        resolve_config(other, None, tmp_path)
    assert "--config FOLDER" in caught.value.hint
    assert resolve_config(other, str(bundled_models()[0]), tmp_path).files


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Failure, match="--config takes a diffusers folder"):
        resolve_config(checkpoint("unet"), str(tmp_path), tmp_path)
