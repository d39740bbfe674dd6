"""The presets of this host, and which of them fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cli import config
from cli.client.connect import connect
from cli.errors import Failure, first_problem
from shared.errors import InvalidInput
from shared.models.descriptor import ModelDescriptor, PartSize, parts_of
from shared.models.families import LORA
from shared.models.folder import DESCRIPTOR
from shared.models.verify import read_model
from shared.presets import Preset, PresetError, presets

if TYPE_CHECKING:
    from dreamforge_client import answers


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model and a size in pixels: of the picture it makes, or of an upscaler's input."""

    kind: str
    width: int
    height: int
    steps: int
    scale: int = 1  # of an upscaler: how many times as large each side becomes
    parts: Mapping[str, PartSize]

    @property
    def pixels(self) -> int:
        """The size of the result."""
        return self.width * self.height * self.scale**2

    @property
    def size(self) -> str:
        size = f"{self.width}x{self.height}"
        if self.scale == 1:
            return size
        return f"{size} to {self.width * self.scale}x{self.height * self.scale}"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a preset can run a workload; `problem` is empty when it can."""

    preset: Preset
    need_bytes: int | None
    problem: str

    def as_json(self) -> dict[str, Any]:
        return {
            "preset": self.preset.name,
            "need_bytes": self.need_bytes,
            "memory_bytes": self.preset.memory_bytes,
            "fits": not self.problem,
            "problem": self.problem or None,
        }


def load_presets() -> Mapping[str, Preset]:
    """The presets that ship and those of DF_PRESETS_DIR. Raises `Failure` that names a bad file."""
    folder = config.effective().get("DF_PRESETS_DIR")
    try:
        return presets(Path(folder) if folder else None)
    except PresetError as error:
        raise Failure(f"DF_PRESETS_DIR: {error}") from None


def get_preset(known: Mapping[str, Preset], name: str) -> Preset:
    if name not in known:
        raise Failure(f"there is no preset {name!r}", hint=f"there are {', '.join(known)}")
    return known[name]


def load_workload(model: str, width: int | None, height: int | None) -> Workload:
    """The workload of a model's folder, or of a model that the API knows."""
    folder = Path(model)
    if (folder / DESCRIPTOR).exists():
        workload = workload_of(read_model(folder))
    else:
        with connect() as client:
            workload = _workload_of_row(client.model(model))
    return replace(workload, width=width or workload.width, height=height or workload.height)


def workload_of(model: ModelDescriptor) -> Workload:
    """A model at its own size."""
    return Workload(
        kind=model.kind,
        width=model.defaults.width,
        height=model.defaults.height,
        steps=model.defaults.steps,
        scale=model.scale or 1,
        parts=model.parts,
    )


def _workload_of_row(row: answers.Model) -> Workload:
    if row["kind"] == LORA:
        raise Failure(f"{row['name']} is a LoRA, which no preset is for by itself")
    rules = row["parameters_schema"].get("properties", {})
    width, height, steps = (_default(rules, name) for name in ("width", "height", "steps"))
    return Workload(
        kind=row["kind"],
        width=width,
        height=height,
        steps=steps,
        scale=row.get("scale") or 1,
        parts=_parts(row),
    )


def _parts(row: answers.Model) -> Mapping[str, PartSize]:
    try:
        return parts_of(row)
    except ValidationError as error:
        raise Failure(f"the API's answer: parts: {first_problem(error)}") from None


def _default(rules: Mapping[str, answers.Parameter], name: str) -> int:
    value = rules[name].get("default") if name in rules else None
    if type(value) is not int or value < 1:
        raise Failure(f"the API's answer has no default of {name} for this model")
    return value


def check_preset(preset: Preset, workload: Workload) -> Fit:
    """Whether the preset can run the workload, by the rules of the API."""
    factor = _vram_factor()
    try:
        budget = preset.budget_for(
            workload.kind, workload.pixels, workload.parts, vram_factor=factor
        )
    except InvalidInput:
        return Fit(preset=preset, need_bytes=None, problem=f"not for {workload.kind}")
    problem = ""
    if workload.pixels > budget.max_pixels:
        problem = f"more than its {budget.max_pixels} pixels"
    elif workload.scale == 1 and workload.steps > budget.max_steps:
        problem = f"more than its {budget.max_steps} steps"
    elif budget.vram_bytes > preset.memory_bytes:
        problem = "too little memory"
    return Fit(preset=preset, need_bytes=budget.vram_bytes, problem=problem)


def _vram_factor() -> float:
    """The operator's correction of every estimate."""
    text = config.effective().get("DF_VRAM_FACTOR") or "1"
    try:
        return float(text)
    except ValueError:
        raise Failure(f"DF_VRAM_FACTOR: {text!r} is not a number") from None


def gigabytes(value: int) -> str:
    """Bytes as text; decimal, as cards are sold."""
    return f"{value / 10**9:.1f} GB"


def megapixels(pixels: int) -> str:
    """Pixels as text."""
    return f"{pixels / 10**6:.1f} MP"
