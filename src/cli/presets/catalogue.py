"""Presets as the command line looks at them: the catalogue, and which of them suit a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cli import config
from cli.client.connect import connect
from cli.errors import Failure
from shared.errors import InvalidInput
from shared.models.descriptor import ModelDescriptor, PartSize, parts_of
from shared.models.folder import DESCRIPTOR
from shared.models.verify import read_model
from shared.presets import Preset, PresetError, presets


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A model and the size of a picture, in pixels: that it makes, or that an upscaler is given."""

    kind: str
    width: int
    height: int
    steps: int
    scale: int = 1  # of an upscaler: how many times as large each side becomes
    parts: Mapping[str, PartSize]

    @property
    def pixels(self) -> int:
        """Of what is made."""
        return self.width * self.height * self.scale**2

    @property
    def size(self) -> str:
        given = f"{self.width}x{self.height}"
        made = f" to {self.width * self.scale}x{self.height * self.scale}"
        return given if self.scale == 1 else given + made


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether one preset can make the picture; `problem` is empty where it can."""

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
    """The presets that ship and those of DF_PRESETS_DIR; Failure names a file that is wrong."""
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
    """What is asked about: a folder is read here, anything else the API is asked for."""
    folder = Path(model)
    if (folder / DESCRIPTOR).exists():
        found = workload_of(read_model(folder))
    else:
        with connect() as client:
            found = _listed(client.get(f"/v1/models/{client.model_id(model)}"))
    return replace(found, width=width or found.width, height=height or found.height)


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


def _listed(row: dict[str, Any]) -> Workload:
    rules = row["parameters_schema"]["properties"]
    width, height, steps = (rules[name]["default"] for name in ("width", "height", "steps"))
    return Workload(
        kind=row["kind"],
        width=width,
        height=height,
        steps=steps,
        scale=row.get("scale") or 1,
        parts=parts_of(row),
    )


def check_presets(known: Iterable[Preset], asked: Workload) -> list[Fit]:
    """One row per preset, by what the API would say."""
    factor = _vram_factor()
    return [check_preset(preset, asked, factor) for preset in known]


def _vram_factor() -> float:
    """By what the operator has every estimate corrected."""
    written = config.effective().get("DF_VRAM_FACTOR") or "1"
    try:
        return float(written)
    except ValueError:
        raise Failure(f"DF_VRAM_FACTOR: {written!r} is not a number") from None


def check_preset(preset: Preset, asked: Workload, factor: float) -> Fit:
    try:
        limit = preset.max_pixels_for(asked.kind)
        need = math.ceil(preset.vram_for(asked.kind, asked.pixels, asked.parts) * factor)
    except InvalidInput:
        return Fit(preset=preset, need_bytes=None, problem=f"not for {asked.kind}")
    problem = ""
    if asked.pixels > limit:
        problem = f"more than its {limit} pixels"
    elif asked.scale == 1 and asked.steps > preset.max_steps:
        problem = f"more than its {preset.max_steps} steps"
    elif need > preset.memory_bytes:
        problem = "too little memory"
    return Fit(preset=preset, need_bytes=need, problem=problem)


def gigabytes(value: int) -> str:
    """Bytes for people; decimal, as cards are sold."""
    return f"{value / 10**9:.1f} GB"


def megapixels(pixels: int) -> str:
    """Pixels for people."""
    return f"{pixels / 10**6:.1f} MP"
