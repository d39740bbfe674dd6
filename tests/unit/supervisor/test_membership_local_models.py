"""A worker reports a model only where it has what running it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.support.families import build, describe
from tests.support.gguf_files import pack_transformer
from tests.support.model_rows import model_row

from cli.models.install import bundled_models
from shared.db.models import Model
from shared.errors import ModelUnavailable
from shared.models import libraries
from shared.models.descriptor import LoraDescriptor, ModelDescriptor
from shared.models.verify import read_model
from supervisor.membership import local_models


def row_of(descriptor: ModelDescriptor) -> Model:
    return model_row(
        kind=descriptor.kind,
        name=descriptor.name,
        version=descriptor.version,
        checkpoint_sha256=descriptor.checkpoint_sha256,
        descriptor=descriptor.model_dump(mode="json"),
    )


@pytest.mark.parametrize("folder", bundled_models(), ids=lambda folder: folder.parent.name)
def test_a_network_counts_only_where_its_library_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = read_model(folder)
    row = row_of(descriptor)
    local_models.check_row(folder, row)
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    if descriptor.layout != "network":
        local_models.check_row(folder, row)
        return
    with pytest.raises(ModelUnavailable, match=r"spandrel.*dreamforge\[gan\]"):
        local_models.check_row(folder, row)


@pytest.mark.parametrize("name", ["PixtralProcessor", "Qwen2VLProcessor", "Qwen3VLProcessor"])
def test_a_processor_of_films_counts_only_where_its_library_is_installed(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "P", "processor": ["transformers", name], "vae": [None, None]})
    )
    given = read_model(bundled_models()[0])
    assert libraries.libraries_of(tmp_path, given) == (libraries.TORCHVISION,)
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"torchvision.*dreamforge\[gan\]"):
        libraries.TORCHVISION.require()


def test_a_lora_needs_no_library_of_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"kind": "lora", "layout": "network", "files": ()}
    lora = LoraDescriptor.model_construct(**fields)
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    assert libraries.libraries_of(Path("nowhere"), lora) == ()


def test_a_packed_transformer_counts_only_where_it_can_be_unpacked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build("sd3", tmp_path / "m")
    pack_transformer(
        tmp_path / "m", load_file(next((tmp_path / "m" / "transformer").glob("*.safetensors")))
    )
    row = row_of(describe(tmp_path / "m", "sd3"))
    local_models.check_row(tmp_path / "m", row)
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match=r"gguf.*dreamforge\[gguf\]"):
        local_models.check_row(tmp_path / "m", row)
