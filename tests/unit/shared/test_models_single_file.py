"""A single-file model: one file with all weights, and a configuration without any."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.support.headers import CHECKPOINTS, VAE, of_shapes
from tests.support.model_folders import INDEX, SOUND, WEIGHTS

from shared.errors import ModelUnavailable
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source
from shared.models.folder import DESCRIPTOR, hash_file
from shared.models.verify import check_installed, verify_model, weights_hash, write_descriptor


@pytest.fixture
def single(tmp_path: Path) -> Path:
    root = tmp_path / "single"
    for name, content in {
        "config/model_index.json": json.dumps(INDEX),
        "config/scheduler/scheduler_config.json": "{}",
        "config/unet/config.json": json.dumps({"sample_size": 8}),
        "config/vae/config.json": json.dumps({"block_out_channels": [1, 1, 1, 1]}),
        "config/text_encoder/config.json": "{}",
        "config/tokenizer/vocab.json": "{}",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "anything.safetensors").write_bytes(of_shapes(CHECKPOINTS["sd1"]))
    descriptor = describe_folder(
        root, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    write_descriptor(root, descriptor)
    return root


def test_a_single_file_is_described_from_its_configuration(single: Path) -> None:
    model = describe_folder(
        single, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    assert (model.layout, model.kind, model.defaults.width) == ("single_file", "sd", 64)
    verify_model(single, model)
    assert check_installed(single, checkpoint_sha256=model.checkpoint_sha256) == model
    (file,) = [file for file in model.files if file.path.endswith(".safetensors")]
    assert weights_hash(model) == file.sha256


def refusal(folder: Path) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        describe_folder(folder, DescriptorInput(name="m", version="1", source=Source(uri="test:")))
    return caught.value.message


@pytest.mark.parametrize("other", ["second.safetensors", "unet/model.safetensors"])
def test_more_than_one_file_of_weights_beside_config_is_refused(single: Path, other: str) -> None:
    (single / other).parent.mkdir(exist_ok=True)
    (single / other).write_bytes(SOUND)
    assert "exactly one safetensors file at its top, beside its config/" in refusal(single)


def test_weights_that_the_file_has_too_are_refused(single: Path) -> None:
    (single / "config/unet/model.safetensors").write_bytes(SOUND)
    assert "its weights are twice, here and in anything.safetensors" in refusal(single)


def test_a_part_that_the_file_lacks_is_taken_from_below_config(single: Path) -> None:
    without = {name: shape for name, shape in CHECKPOINTS["sd1"].items() if name not in VAE}
    (single / "anything.safetensors").write_bytes(of_shapes(without))
    assert "its weights are neither here nor in anything.safetensors" in refusal(single)
    (single / "config/vae/model.safetensors").write_bytes(SOUND)
    model = describe_folder(
        single, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    # Other tools know a checkpoint by its one file, whatever lies beside it.
    assert weights_hash(model) == hash_file(single / "anything.safetensors")


def test_the_tensors_say_the_kind_whatever_the_configuration_is_called(single: Path) -> None:
    index = single / "config/model_index.json"
    index.write_text(json.dumps(INDEX | {"_class_name": "StableDiffusionImg2ImgPipeline"}))
    model = describe_folder(
        single, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    assert model.kind == "sd"


def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(single: Path) -> None:
    (single / "anything.safetensors").write_bytes(of_shapes({"a.lora_down.weight": (1,)}))
    assert "a LoRA" in refusal(single)
    assert describe_folder(
        single, DescriptorInput(name="m", version="1", source=Source(uri="test:"), kind="sd")
    )  # whoever says the kind knows better


def test_a_checkpoint_without_its_configuration_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(of_shapes(CHECKPOINTS["sdxl"]))
    assert "a checkpoint of sdxl; it needs its configuration beside it" in refusal(tmp_path)


def test_a_configuration_alone_is_refused(single: Path) -> None:
    (single / "anything.safetensors").unlink()
    assert refusal(single).endswith("found: none")


def test_a_missing_part_and_foreign_code_are_named_with_their_place(single: Path) -> None:
    index = single / "config/model_index.json"
    index.write_text(json.dumps(INDEX | {"unet": ["os", "system"]}))
    assert refusal(single).startswith("config/model_index.json: unet asks for code outside")
    index.write_text(json.dumps(INDEX))
    shutil.rmtree(single / "config/vae")
    assert refusal(single) == "config/vae/: missing"


def test_a_descriptor_that_names_the_other_layout_is_refused(single: Path) -> None:
    path = single / DESCRIPTOR
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"layout": "diffusers"}))
    with pytest.raises(ModelUnavailable, match="layout: says diffusers, the files are those of"):
        check_installed(single, checkpoint_sha256=told["checkpoint_sha256"])


def test_a_descriptor_of_an_earlier_release_is_of_a_folder(single: Path) -> None:
    folder = single.parent / "folder"
    shutil.copytree(single / "config", folder)
    for name in (WEIGHTS, "vae/model.safetensors", "text_encoder/model.safetensors"):
        (folder / name).write_bytes(SOUND)
    model = describe_folder(
        folder, DescriptorInput(name="m", version="1", source=Source(uri="test:"))
    )
    written = json.loads(model.model_dump_json())
    del written["layout"]
    (folder / DESCRIPTOR).write_text(json.dumps(written))
    assert check_installed(folder, checkpoint_sha256=model.checkpoint_sha256) == model
