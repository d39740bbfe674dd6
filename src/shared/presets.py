"""Presets: what a step may use on a class of device, by name and version.

A request names one, or takes its model's default. The numbers are pinned on the step at create, so
that a later edit of a preset changes no accepted job.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import InvalidInput
from shared.messages import PresetSpec


class Preset(BaseModel):
    """Limits and needs on one device class. `vram_bytes` maps a model kind to bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: int = Field(ge=1)
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "float16", "bfloat16"]
    threads: int = Field(ge=1)
    offload: Literal["none", "model", "sequential"] = "none"
    timeout_s: float = Field(gt=0)
    max_pixels: int = Field(gt=0)
    max_steps: int = Field(gt=0)
    vram_bytes: dict[str, int]

    def for_runner(self) -> PresetSpec:
        """The part that a runner acts on; limits are checked long before."""
        return PresetSpec(
            name=self.name,
            version=self.version,
            device=self.device,
            dtype=self.dtype,
            threads=self.threads,
            offload=self.offload,
        )

    def vram_for(self, kind: str) -> int:
        """Bytes of device memory that a model of `kind` needs; raise for a kind it cannot run."""
        try:
            return self.vram_bytes[kind]
        except KeyError:
            known = ", ".join(sorted(self.vram_bytes))
            raise InvalidInput(
                f"preset {self.name!r} has no memory figure for models of kind {kind!r}; "
                f"it knows {known}",
                field="preset",
            ) from None


@cache
def presets() -> dict[str, Preset]:
    """Every preset that ships with this release, by name."""
    folder = files("shared") / "presets_data"
    found = [
        Preset.model_validate(tomllib.loads(entry.read_text(encoding="utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    ]
    return {preset.name: preset for preset in sorted(found, key=lambda p: p.name)}


def preset(name: str) -> Preset:
    """The preset called `name`; raise `InvalidInput` that lists what there is."""
    try:
        return presets()[name]
    except KeyError:
        raise InvalidInput(
            f"unknown preset {name!r}; known: {', '.join(presets())}", field="preset"
        ) from None
