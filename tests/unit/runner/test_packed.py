"""Folders whose transformer is a GGUF file: described, compared, loaded, drawn with, refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.support.families import build, describe
from tests.support.gguf_files import Q8_0, of, pack_transformer, q8_0
from tests.support.golden import CPU
from tests.support.loras import kohya, random_pairs, write
from tests.support.single_files import CONVERTERS

from cli.download.file_selection import select_files
from runner.diffusion.fit import misfits
from runner.diffusion.loras import LoraFile, add_loras
from runner.diffusion.packed import is_packed
from runner.diffusion.pipelines import load, load_on_host
from shared.errors import ModelUnavailable
from shared.models import libraries
from shared.models.check import check_folder
from shared.models.gguf_header import read_gguf
from shared.models.verify import verify_model, weights_hash
from shared.presets import preset
from shared.protocol.messages import GenerateParams, Offload, PresetSpec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PARAMS = GenerateParams(prompt="a cat", width=32, height=32, steps=2, guidance=3.0)
TRANSFORMER = "model.diffusion_model."
Weights = dict[str, torch.Tensor]


def of_diffusers(folder: Path) -> Weights:
    return dict(load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors"))


def of_the_original(folder: Path) -> Weights:
    whole = CONVERTERS["sd3"](folder)
    return {n.removeprefix(TRANSFORMER): w for n, w in whole.items() if n.startswith(TRANSFORMER)}


NAMES: dict[str, Callable[[Path], Weights]] = {
    "diffusers": of_diffusers,
    "original": of_the_original,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    folder = tmp_path_factory.mktemp("packed") / "sd3"
    build("sd3", folder)
    return folder


@pytest.fixture(scope="module")
def folder(whole: Path) -> Path:
    return packed_copy(whole, whole.with_name("sd3-packed"), of_diffusers(whole))


def packed_copy(whole: Path, to: Path, weights: Weights) -> Path:
    shutil.copytree(whole, to)
    pack_transformer(to, weights)
    describe(to, "sd3")
    return to


def drawn(folder: Path, spec: PresetSpec = CPU) -> Any:
    picture, _ = load("sd3", folder, spec, None).picture(PARAMS, 1, lambda *_: None)
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("names", NAMES)
def test_a_packed_transformer_draws_nearly_the_same_picture(
    names: str, whole: Path, tmp_path: Path
) -> None:
    folder = packed_copy(whole, tmp_path / "packed", NAMES[names](whole))
    assert misfits(folder) == []
    made, wanted = drawn(folder), drawn(whole)
    assert 0 < np.abs(made - wanted).mean() < 3, "of 255"
    assert (drawn(folder) == made).all()
    assert made.std() > 1


def test_its_descriptor_says_what_it_holds_and_takes_no_lora(whole: Path, folder: Path) -> None:
    full, described = describe(whole, "sd3"), describe(folder, "sd3")
    verify_model(folder, described)
    assert (described.kind, described.layout) == ("sd3", "diffusers")
    assert "lora" in full.capabilities
    assert set(full.capabilities) - set(described.capabilities) == {"lora"}
    assert described.lora_width is None
    assert described.checkpoint_sha256 != full.checkpoint_sha256
    assert weights_hash(described) == described.checkpoint_sha256, "several files have no own hash"
    size, in_full = described.parts["transformer"], full.parts["transformer"]
    assert size == in_full.model_copy(update={"packed_bytes": size.packed_bytes})
    tensors = read_gguf(folder, "transformer/model-Q8_0.gguf").values()
    assert {each.packing.name for each in tensors} == {"F32", "Q8_0"}
    assert size.packed_bytes == sum(each.size_bytes for each in tensors)
    pinned = preset("gpu-24gb").budget_for("sd3", 0, described.parts)
    assert pinned.vram_bytes == preset("gpu-24gb").budget_for("sd3", 0).vram_bytes


def test_a_changed_byte_is_seen(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "changed")
    described = describe(folder, "sd3")
    file = tmp_path / "changed" / "transformer" / "model-Q8_0.gguf"
    file.write_bytes(file.read_bytes()[:-1] + b"\x55")
    with pytest.raises(ModelUnavailable, match="its content has changed"):
        verify_model(tmp_path / "changed", described)


@pytest.mark.parametrize(
    "changes",
    [{"offload": "model"}, {"offload": "group"}, {"storage_dtype": "float8_e4m3fn"}],
    ids=str,
)
def test_it_is_held_as_it_is_wherever_it_is(changes: dict[str, Any], folder: Path) -> None:
    assert (drawn(folder, CPU.model_copy(update=changes)) == drawn(folder)).all()


def test_it_stays_while_other_parts_go_layer_by_layer(folder: Path) -> None:
    offload: Offload = "group"
    pipeline = load("sd3", folder, CPU.model_copy(update={"offload": offload}), None).pipeline
    assert is_packed(pipeline.transformer)
    assert not any(hasattr(each, "_diffusers_hook") for each in pipeline.transformer.modules())
    assert any(hasattr(each, "_diffusers_hook") for each in pipeline.text_encoder_3.modules())


def test_it_cannot_go_layer_by_layer(folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match="packed weights cannot go layer by layer"):
        load("sd3", folder, CPU.model_copy(update={"offload": "sequential"}), None)


def test_a_lora_is_refused(folder: Path, whole: Path, tmp_path: Path) -> None:
    pairs = random_pairs(load_on_host("sd3", whole, "float32", layout="diffusers"))
    file = LoraFile(label="style@1", folder=write(tmp_path / "lora", kohya(pairs)), scale=1.0)
    pipeline = load_on_host("sd3", folder, "float32", layout="diffusers")
    with pytest.raises(ModelUnavailable, match="LoRA style@1: this model's weights are packed"):
        add_loras(pipeline, [file], lambda: None)


def test_without_the_library_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"install dreamforge\[gguf\]"):
        load("sd3", folder, CPU, None)


def test_what_does_not_fit_the_configuration_is_named(whole: Path, tmp_path: Path) -> None:
    weights = of_diffusers(whole)
    name = "transformer_blocks.0.attn.to_q.weight"
    narrow = packed_copy(whole, tmp_path / "narrow", weights | {name: weights[name][:16]})
    assert misfits(narrow) == [f"transformer: {name} is [16, 32] and should be [32, 32]"]
    lacking = packed_copy(
        whole, tmp_path / "lacking", {n: w for n, w in weights.items() if n != name}
    )
    assert misfits(lacking) == [f"transformer: {name} is missing"]


def test_packed_numbers_that_nothing_unpacks_are_named(whole: Path, tmp_path: Path) -> None:
    weights = of_diffusers(whole)
    folder = packed_copy(whole, tmp_path / "table", weights)
    table = weights["pos_embed.pos_embed"]
    plain = {n: w for n, w in weights.items() if n != "pos_embed.pos_embed"}
    file = folder / "transformer" / "model-Q8_0.gguf"
    tensors = [
        (n, tuple(reversed(w.shape)), 0, w.to(torch.float32).numpy().tobytes())
        for n, w in plain.items()
    ]
    sides = tuple(reversed(table.shape))
    file.write_bytes(of([*tensors, ("pos_embed.pos_embed", sides, Q8_0, q8_0(table))]))
    (found,) = misfits(folder)
    assert found.startswith("transformer: pos_embed.pos_embed is packed, and what it belongs to is")


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("transformer/second.gguf", of(), "weights are there more than once"),
        ("transformer/diffusion_pytorch_model.safetensors", None, "there more than once"),
        ("vae/x.gguf", of(), "a GGUF file is the transformer of a diffusers folder"),
        ("x.gguf", of(), "a GGUF file is the transformer of a diffusers folder"),
        ("transformer/deep/x.gguf", of(), "a GGUF file is the transformer"),
        ("transformer/model-Q8_0.gguf", of(counts=(2**63, 1)), "not a sound GGUF file"),
    ],
)
def test_a_folder_with_such_a_file_is_refused(
    name: str, data: bytes | None, why: str, folder: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "m")
    (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "m" / name).write_bytes((whole / name).read_bytes() if data is None else data)
    with pytest.raises(ModelUnavailable, match=why):
        check_folder(tmp_path / "m")


def test_a_single_file_model_has_no_packed_transformer_beside_it(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "model_index.json").write_text("{}")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "x.gguf").write_bytes(of())
    with pytest.raises(ModelUnavailable, match="belongs into a folder of diffusers"):
        check_folder(tmp_path)


def test_of_a_folder_with_both_the_packed_copy_is_left_out() -> None:
    index, full, copy = "model_index.json", "transformer/a.safetensors", "transformer/q8.gguf"
    assert select_files([index, full, copy], (), ())[0] == [index, full]
    assert select_files([index, copy], (), ())[0] == [index, copy]
    assert select_files([index, "flux-Q4_0.gguf"], (), ())[0] == [index]
