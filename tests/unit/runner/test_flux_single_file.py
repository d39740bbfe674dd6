"""A Flux in one file, at the real width: diffusers reads no other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.families import describe, flux, save
from tests.support.single_files import flux as in_one_file
from tests.support.single_files import flux_transformer, write

from runner.diffusion.pipelines import load, silence_libraries
from shared.models.verify import check_installed
from shared.protocol.messages import PresetSpec

BF16 = PresetSpec(name="cpu", version=1, device="cpu", dtype="bfloat16", threads=1)
MODELS = ("transformer", "vae", "text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One block of each sort, 24 heads of 128: a gigabyte in half precision."""
    silence_libraries()
    torch.set_num_threads(1)  # two on a busy machine are forty times slower
    folder = tmp_path_factory.mktemp("flux") / "folder"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        save(lambda: flux(heads=24, rope=(16, 56, 56)), folder)
    finally:
        torch.set_default_dtype(before)
    yield folder
    shutil.rmtree(folder)  # pytest keeps what the last runs left


@pytest.mark.parametrize(
    "beside", [(), pytest.param(("vae", "text_encoder", "text_encoder_2"), marks=pytest.mark.slow)]
)
def test_every_weight_of_a_single_file_comes_to_its_place(
    folder: Path, tmp_path: Path, beside: tuple[str, ...]
) -> None:
    """All parts in the file, or the transformer alone and the others below `config/`."""
    single = tmp_path / "single"
    write((flux_transformer if beside else in_one_file)(folder), folder, single, beside=beside)
    described = describe(single, "flux")
    assert (described.kind, described.layout) == ("flux", "single_file")
    check_installed(single, checkpoint_sha256=described.checkpoint_sha256)
    loaded = load("flux", single, BF16, None, layout="single_file")
    for part in MODELS:
        compare(loaded.pipeline.components[part], folder / part)
    shutil.rmtree(single)


def compare(part: Any, folder: Path) -> None:
    """The weights of a loaded part with those of its folder, all of them."""
    (file,) = folder.glob("*.safetensors")
    wanted, found = load_file(file), part.state_dict()
    assert wanted.keys() <= found.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), f"{folder.name}: {name}"
    for parameter in part.parameters():
        assert parameter.device.type == "cpu" and not part.training
