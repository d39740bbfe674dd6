"""Presets as the command line looks at them: the catalogue, and which of them suit a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import environment
from cli.failures import Failure
from cli.job_flow import connect
from shared.errors import InvalidInput
from shared.presets import Preset, PresetError, presets
from shared.registry import DESCRIPTOR, read_model


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A kind of model and the size of a picture, in pixels."""

    kind: str
    width: int
    height: int


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


def catalogue() -> Mapping[str, Preset]:
    """The presets that ship and those of DF_PRESETS_DIR; Failure names a file that is wrong."""
    folder = environment.effective().get("DF_PRESETS_DIR")
    try:
        return presets(Path(folder) if folder else None)
    except PresetError as error:
        raise Failure(f"DF_PRESETS_DIR: {error}") from None


def chosen(known: Mapping[str, Preset], name: str) -> Preset:
    if name not in known:
        raise Failure(f"there is no preset {name!r}", hint=f"there are {', '.join(known)}")
    return known[name]


def subject(model: str, width: int | None, height: int | None) -> Subject:
    """What is asked about: a folder is read here, anything else the API is asked for."""
    folder = Path(model)
    if (folder / DESCRIPTOR).exists():
        found = read_model(folder)
        kind, default = str(found.kind), (found.defaults.width, found.defaults.height)
    else:
        with connect() as client:
            row = client.get(f"/v1/models/{client.model_id(model)}")
        rules = row["parameters_schema"]["properties"]
        kind, default = row["kind"], (rules["width"]["default"], rules["height"]["default"])
    return Subject(kind=kind, width=width or default[0], height=height or default[1])


def fits(known: Iterable[Preset], asked: Subject) -> list[Fit]:
    """One row per preset."""
    pixels = asked.width * asked.height
    rows = []
    for preset in known:
        try:
            need = preset.vram_for(asked.kind, pixels)
        except InvalidInput:
            rows.append(Fit(preset=preset, need_bytes=None, problem=f"not for {asked.kind}"))
            continue
        problem = ""
        if pixels > preset.max_pixels:
            problem = f"more than its {preset.max_pixels} pixels"
        elif need > preset.memory_bytes:
            problem = "too little memory"
        rows.append(Fit(preset=preset, need_bytes=need, problem=problem))
    return rows


def gigabytes(value: int) -> str:
    """Bytes for people; decimal, as cards are sold."""
    return f"{value / 10**9:.1f} GB"
