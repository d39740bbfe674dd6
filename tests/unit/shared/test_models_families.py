"""The one table of model families: it is complete, and it is all that a new family needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import diffusers
import pytest

from runner.diffusion.pipelines import load
from shared.models.families import (
    FAMILIES,
    SCHEDULERS,
    BaseModelName,
    Kind,
    ModelFamily,
    base_repository,
    kind_of_base_model,
    kind_of_pipeline,
)
from shared.protocol.messages import PresetSpec

SRC = Path(__file__).parents[3] / "src"
ROW = """
FAMILIES["invented"] = ModelFamily(
    pipeline="InventedPipeline",
    side_multiple=32,
    native_side=640,
    steps=7,
    guidance=2.0,
    schedulers=("euler",),
    max_negative_prompt=0,
    tile_side=320,
)
"""
# Asks each part of the system about the invented kind. A preset has a figure for it, which is data.
QUESTIONS = """
import json, sys
from pathlib import Path
import pydantic
from cli.download.install import Kind
from shared.models.describe import DescriptorInput, describe_folder
from shared.models.descriptor import Source, parameter_problems, parameters_schema
from shared.presets import Preset, preset

folder = Path(sys.argv[1])
(folder / "model_index.json").write_text(json.dumps({"_class_name": "InventedPipeline"}))
given = DescriptorInput(name="m", version="1", source=Source(uri="test:"))
model = describe_folder(folder, given)
assert model.kind == "invented"
assert model.defaults.width == 640 and model.defaults.steps == 7, model.defaults
rules = parameters_schema(model)["properties"]
assert rules["width"]["multipleOf"] == 32
assert rules["scheduler"]["enum"] == [None, "euler"]
assert rules["negative_prompt"]["maxLength"] == 0
assert parameter_problems(model, {"width": 648}) == {"width": "must be a multiple of 32"}
pydantic.TypeAdapter(Kind).validate_python("invented")
need = {"base_bytes": 10**9, "bytes_per_pixel": 1, "decode_bytes_per_pixel": 1000}
card = preset("gpu-8gb").model_dump() | {"kinds": {"invented": need}, "vae_tiling": True}
pixels = 640 * 640
budget = Preset.model_validate(card).budget_for("invented", pixels)
assert budget.vram_bytes == 10**9 + 1000 * 320 * 320 + 80 * pixels, budget
"""


def test_every_kind_and_every_base_model_is_in_the_table() -> None:
    assert set(FAMILIES) == set(get_args(Kind))
    listed = [
        name
        for family in FAMILIES.values()
        if family.single_file is not None
        for name in family.single_file.base_models
    ]
    assert sorted(listed) == sorted(get_args(BaseModelName))
    for name in get_args(BaseModelName):
        assert kind_of_base_model(name) in FAMILIES
        assert base_repository(name).count("/") == 1


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_row_does_not_contradict_itself(kind: Kind) -> None:
    family = FAMILIES[kind]
    assert family.native_side % family.side_multiple == 0
    assert set(family.schedulers) <= set(SCHEDULERS)
    assert kind_of_pipeline(family.pipeline or "") == (kind if family.pipeline else "auto")
    assert (family.scale is not None) == (family.upscaling == "diffusion")


def test_a_new_family_is_a_change_of_one_file(tmp_path: Path) -> None:
    shutil.copytree(SRC, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    table = tmp_path / "src/shared/models/families.py"
    text = table.read_text()
    assert 'Kind = Literal[\n    "sd", ' in text
    table.write_text(text.replace('Literal[\n    "sd", ', 'Literal[\n    "invented", "sd", ') + ROW)
    (tmp_path / "model").mkdir()
    asked = subprocess.run(
        [sys.executable, "-c", QUESTIONS, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        timeout=100,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "src")},
    )
    assert asked.returncode == 0, asked.stderr


def test_the_runner_loads_the_class_that_a_row_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Exception):
        pass

    def from_pretrained(folder: str, **_arguments: object) -> None:
        raise Opened(folder)

    row = ModelFamily(
        pipeline="InventedPipeline", side_multiple=8, native_side=512, steps=1, guidance=0.0
    )
    monkeypatch.setitem(FAMILIES, "invented", row)  # type: ignore[misc]
    stock = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setattr(diffusers, "InventedPipeline", stock, raising=False)
    (tmp_path / "model_index.json").write_text("{}")
    cpu = PresetSpec(name="cpu", version=1, device="cpu", dtype="float32", threads=1)
    with pytest.raises(Opened, match=tmp_path.name):
        load("invented", tmp_path, cpu, None)
