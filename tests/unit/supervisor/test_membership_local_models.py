"""A worker reports a model only where it has what running it takes."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from safetensors.torch import load_file
from tests.support.families import build, describe
from tests.support.gguf_files import pack_transformer
from tests.support.model_rows import model_row
from tests.support.silent_disk import DEADLINE_S, answer, answered_at_last

from cli.models.install import bundled_models
from shared.db.engine import Database
from shared.db.models import Model
from shared.errors import ModelUnavailable
from shared.models import libraries
from shared.models.descriptor import LoraDescriptor, ModelDescriptor
from shared.models.stamp import Stamp
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


def test_a_disk_that_does_not_answer_takes_its_model_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A folder on a network file system that is away: a look at it waits for ever."""
    os.mkfifo(away := tmp_path / "away")
    silent, sound = (
        model_row(name=name, descriptor={}, checkpoint_sha256="0" * 64)
        for name in ("silent", "sound")
    )
    hangs = threading.Event()
    looks: list[Path] = []

    def stamp_of(folder: Path) -> Stamp:
        if folder.name.startswith("silent") and hangs.is_set():
            looks.append(folder)
            away.read_text()
        return ((folder.name, 0, 0, 0, 0),)

    class Registry:
        async def transaction(self, _read: object) -> list[Model]:
            return [silent, sound]

    monkeypatch.setattr(local_models, "stamp_of", stamp_of)
    monkeypatch.setattr(local_models, "check_row", lambda folder, row: None)

    async def main() -> None:
        models = local_models.LocalModels(cast("Database", Registry()), tmp_path)
        with anyio.fail_after(DEADLINE_S):
            await models.refresh()
            assert set(models.checksums) == {silent.id, sound.id}
            hangs.set()
            monkeypatch.setattr(local_models, "STAMP_WITHIN_S", 1.0)
            for _ in range(3):
                await models.refresh()
            assert silent.id not in models.checksums
            assert len(looks) <= 1, "each refresh leaves a thread behind"
            hangs.clear()
            monkeypatch.setattr(local_models, "STAMP_WITHIN_S", DEADLINE_S)
            while set(models.checksums) != {silent.id, sound.id}:
                answer(away)
                await models.refresh()

    with answered_at_last(away):
        anyio.run(main)
