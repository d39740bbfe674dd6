"""Presets: what a step may use on a class of device, by name and version.

A request names one, or takes its model's default. Create pins the preset's answer for a step
(`Preset.budget_for`) on that step. The files that ship are in `shared/presets_data`; an operator
adds a folder (`DF_PRESETS_DIR`), which is read once, when a process starts. docs/presets.md says
how the figures were obtained.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, assert_never

from pydantic import BaseModel, Field, ValidationError, model_validator

from shared.errors import InvalidInput
from shared.limits import MAX_PICTURE_PIXELS
from shared.models.descriptor import Name, PartSize, StrictRecord
from shared.models.families import Kind, family_of
from shared.protocol.messages import Attention, Device, Dtype, Offload, PresetSpec, StorageDtype

SUFFIX = ".toml"
MAX_FILE_BYTES = 1 << 20
# No machine has more. Their sums and products, which a step's row holds, stay below 63 bits.
MOST_BYTES, MOST_BYTES_PER_PIXEL, MOST_THREADS = 1 << 48, 1 << 28, 1 << 12
_INTEGER = (1 << 31) - 1

# Of a decoded picture: its tiles, which overlap by a quarter, the rows made of them, the whole and
# the steps to eight bits; three colours in float32 each time.
PICTURE_BYTES_PER_PIXEL = 80
# The largest VAE of the known kinds, in half precision and once more in float32.
VAE_BYTES = 500_000_000
BYTES_OF: dict[Dtype, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
BYTES_OF_STORAGE = 1
# For each number of a packed layer: its groups as bytes and as half precision, the scaled numbers
# and a copy in the preset's dtype.
BYTES_WHILE_UNPACKED = 8


class PresetError(ValueError):
    """One line: which file, which field, what is wrong, what would be accepted."""


# Measured on a runner that resamples pictures of up to 9 megapixels: 400 MB of imports, 13 bytes
# for each pixel of the result, with half as much again for the allocator.
RESAMPLE_BASE_BYTES = 536_870_912
RESAMPLE_BYTES_PER_PIXEL = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StepBudget:
    """What one step may use and how much device memory it needs: the answer of a preset.

    `vram_bytes` is corrected by `vram_factor` already.
    """

    spec: PresetSpec  # what the runner acts on
    timeout_s: float
    max_pixels: int
    max_steps: int
    vram_bytes: int
    vram_factor: float

    @property
    def pinned(self) -> dict[str, Any]:
        """What is stored on the step: a later edit of the preset changes no accepted job."""
        limits = {
            "timeout_s": self.timeout_s,
            "max_pixels": self.max_pixels,
            "max_steps": self.max_steps,
        }
        factor = {} if self.vram_factor == 1 else {"vram_factor": self.vram_factor}
        return self.spec.model_dump(mode="json") | limits | factor


class KindNeed(StrictRecord):
    """What models of one kind need of the device, and how large a picture may be.

    `base_bytes` does not depend on the picture: weights, the device's context. It is that of the
    usual checkpoint; a larger one counts by its own weights. `bytes_per_pixel` is added while
    sampling and `decode_bytes_per_pixel` while the VAE decodes. The larger sum counts, since one
    follows the other. Without the second figure the first stands for both. A kind may differ from
    its preset in the fields that have a default here.
    """

    base_bytes: int = Field(ge=0, le=MOST_BYTES)
    bytes_per_pixel: int = Field(ge=0, le=MOST_BYTES_PER_PIXEL)
    decode_bytes_per_pixel: int = Field(default=0, ge=0, le=MOST_BYTES_PER_PIXEL)
    max_pixels: int | None = Field(default=None, gt=0, le=MAX_PICTURE_PIXELS)
    dtype: Dtype | None = None
    storage_dtype: StorageDtype | None = None
    offload: Offload | None = None
    vae_tiling: bool | None = None


# Of a step without a model.
NO_MODEL = KindNeed(base_bytes=0, bytes_per_pixel=0)


class Preset(StrictRecord):
    """Limits and needs on one class of devices. Sizes are bytes and pixels, times seconds."""

    name: Name
    version: int = Field(ge=1, le=_INTEGER)
    device: Device
    # What every device of the class has at least; `dreamforge preset fit` compares with it.
    memory_bytes: int = Field(gt=0, le=MOST_BYTES)
    dtype: Dtype
    threads: int = Field(ge=1, le=MOST_THREADS)
    offload: Offload = "none"
    attention: Attention = "auto"
    vae_tiling: bool = False
    timeout_s: float = Field(gt=0, le=_INTEGER)
    # Of a picture that is generated, and of one that is enlarged (None: as many):
    # an upscaler works in tiles and leaves the result on the host, so it can make far larger ones.
    max_pixels: int = Field(gt=0, le=MAX_PICTURE_PIXELS)
    max_output_pixels: int | None = Field(default=None, gt=0, le=MAX_PICTURE_PIXELS)
    max_steps: int = Field(gt=0, le=_INTEGER)
    # Of the device's context and its libraries; on a CPU, of torch and Python.
    overhead_bytes: int = Field(default=1_000_000_000, ge=0, le=MOST_BYTES)
    kinds: dict[Kind, KindNeed]

    @model_validator(mode="after")
    def _cpu_has_one_memory_and_few_kernels(self) -> Self:
        if self.device != "cpu":
            return self
        if {self.offload, *(need.offload for need in self.kinds.values())} - {"none", None}:
            raise ValueError("offload: a CPU has nowhere to offload to; accepted: none")
        # A template's weights stay in its memory in full, beside those of the runner.
        if any(need.storage_dtype is not None for need in self.kinds.values()):
            raise ValueError("storage_dtype: it saves no memory of a CPU; leave it out")
        if self.attention not in {"auto", "math"}:
            raise ValueError("attention: a CPU has no such kernel; accepted: auto, math")
        return self

    @model_validator(mode="after")
    def _layers_are_cast_by_one_alone(self) -> Self:
        for kind, need in self.kinds.items():
            if need.storage_dtype and (need.offload or self.offload) == "sequential":
                raise ValueError(
                    f"kinds.{kind}: storage_dtype goes with the offload none, model and group"
                )
        return self

    def budget_for(
        self,
        kind: str | None,
        pixels: int = 0,
        parts: Mapping[str, PartSize] = MappingProxyType({}),
        *,
        vram_factor: float = 1.0,
    ) -> StepBudget:
        """The budget of a step that makes a picture of `pixels` with a model of `kind`.

        No kind is enlarging without a model. Only the memory depends on `pixels` and on `parts`,
        those of the checkpoint: where they are larger than those that the preset's figure was made
        for, they count instead. The operator corrects every estimate by `vram_factor`. Raises
        `InvalidInput` for a kind that the preset has no figure for.
        """
        need = NO_MODEL if kind is None else self._need(kind)
        spec = PresetSpec(
            name=self.name,
            version=self.version,
            device=self.device,
            dtype=need.dtype or self.dtype,
            storage_dtype=need.storage_dtype,
            threads=self.threads,
            offload=need.offload or self.offload,
            attention=self.attention,
            vae_tiling=self.vae_tiling if need.vae_tiling is None else need.vae_tiling,
        )
        if kind is None:
            vram_bytes = self._resample_bytes(pixels)
        else:
            tile_side = family_of(kind).tile_side if spec.vae_tiling else None
            resident = max(need.base_bytes, self.overhead_bytes + _weights_at_once(spec, parts))
            beside_vae = resident
            if spec.offload != "none":  # where parts take turns, the VAE has the device for itself
                beside_vae = self.overhead_bytes + VAE_BYTES + _staying_bytes(spec, parts)
            vram_bytes = _at_most(need, tile_side, resident, beside_vae, pixels)
        return StepBudget(
            spec=spec,
            timeout_s=self.timeout_s,
            max_pixels=self.max_pixels_for(kind),
            max_steps=self.max_steps,
            vram_bytes=math.ceil(vram_bytes * vram_factor),
            vram_factor=vram_factor,
        )

    def max_pixels_for(self, kind: str | None) -> int:
        """The most pixels that a model of `kind` may make; None is enlarging without a model."""
        if kind is not None and (own := self._need(kind).max_pixels) is not None:
            return own
        if kind is None or family_of(kind).upscaling is not None:
            return self.max_output_pixels or self.max_pixels
        return self.max_pixels

    def _resample_bytes(self, pixels: int) -> int:
        """Resampling runs on the CPU: it needs no memory of a GPU."""
        if self.device != "cpu":
            return 0
        return RESAMPLE_BASE_BYTES + RESAMPLE_BYTES_PER_PIXEL * pixels

    def _need(self, kind: str) -> KindNeed:
        for name, need in self.kinds.items():
            if name == kind:
                return need
        raise InvalidInput(
            f"preset {self.name!r} has no memory figure for models of kind {kind!r}; "
            f"it knows {', '.join(sorted(self.kinds))}",
            field="preset",
        )


def _at_most(
    need: KindNeed, tile_side: int | None, resident: int, beside_vae: int, pixels: int
) -> int:
    """Bytes while sampling or decoding, whichever needs more; they come one after the other."""
    sampling = resident + need.bytes_per_pixel * pixels
    if need.decode_bytes_per_pixel == 0:
        return sampling
    at_once = pixels if tile_side is None else min(pixels, tile_side**2)
    decoding = need.decode_bytes_per_pixel * at_once + PICTURE_BYTES_PER_PIXEL * pixels
    return max(sampling, beside_vae + decoding)


def _weights_at_once(spec: PresetSpec, parts: Mapping[str, PartSize]) -> int:
    """Bytes of weights that are on the device together."""
    sizes = parts.values()
    match spec.offload:
        case "none":
            held = sum(_held_bytes(spec, part) for part in sizes)
            return held + max((_cast_bytes(spec, part) for part in sizes), default=0)
        case "model":
            return max(
                (_held_bytes(spec, part) + _cast_bytes(spec, part) for part in sizes), default=0
            )
        case "group":
            turns = max((_turn_bytes(spec, part) for part in sizes), default=0)
            return VAE_BYTES + _staying_bytes(spec, parts) + turns if parts else 0
        case "sequential":
            return max((part.largest for part in sizes), default=0) * BYTES_OF[spec.dtype]
        case _:
            assert_never(spec.offload)


def _held_bytes(spec: PresetSpec, part: PartSize) -> int:
    """A whole part, as it is between two uses."""
    wide = BYTES_OF[spec.dtype]
    if part.packed_bytes:
        return part.packed_bytes
    if not _is_cast(spec, part):
        return part.numbers * wide
    return part.precise * wide + (part.numbers - part.precise) * BYTES_OF_STORAGE


def _cast_bytes(spec: PresetSpec, part: PartSize) -> int:
    """Of the layer that computes, in full beside what is held."""
    if part.packed_bytes:
        return part.largest * BYTES_WHILE_UNPACKED
    return part.largest * BYTES_OF[spec.dtype] if _is_cast(spec, part) else 0


def _turn_bytes(spec: PresetSpec, part: PartSize) -> int:
    """What is there in turn with `group`: the block that computes and the next one, or a layer.

    8 bits are not counted: one of the two blocks is half as large then, and the other has a layer
    in full as well.
    """
    if part.packed_bytes:
        return _cast_bytes(spec, part)
    return (part.outside + 2 * part.block if part.block else part.largest) * BYTES_OF[spec.dtype]


def _staying_bytes(spec: PresetSpec, parts: Mapping[str, PartSize]) -> int:
    """Packed parts, which stay on the device with `group`, also beside a decode."""
    if spec.offload != "group":
        return 0
    return sum(part.packed_bytes for part in parts.values())


def _is_cast(spec: PresetSpec, part: PartSize) -> bool:
    return spec.storage_dtype is not None and part.block > 0


def host_bytes(parts: Mapping[str, PartSize], dtype: Dtype) -> int:
    """The weights of a model in the host's memory, as they are loaded."""
    return sum(part.packed_bytes or part.numbers * BYTES_OF[dtype] for part in parts.values())


@cache
def presets(folder: Path | None = None) -> Mapping[str, Preset]:
    """Every preset by name: those of this release, and those of the operator's own `folder`.

    Raises `PresetError` for the first file that is no preset.
    """
    shipped = {preset.name: preset for _, preset in _shipped()}
    known = dict(shipped)
    for file, preset in _own(folder) if folder is not None else ():
        if preset.name in known:
            where = "ships with Dream Forge" if preset.name in shipped else "is in another file"
            raise PresetError(f"{file}: name: {preset.name!r} {where}; choose another name")
        known[preset.name] = preset
    # By device and class, the smallest first: the order in which an operator looks for one.
    ordered = sorted(known.values(), key=lambda p: (p.device, p.memory_bytes, p.name))
    return MappingProxyType({preset.name: preset for preset in ordered})


def preset(name: str, folder: Path | None = None) -> Preset:
    """The preset called `name`; raise `InvalidInput` that lists what there is."""
    known = presets(folder)
    if name not in known:
        raise InvalidInput(
            f"unknown preset {name!r}; known: {', '.join(known)}",
            field="preset",
            known=list(known),
        )
    return known[name]


def parse_preset(file: str, text: str) -> Preset:
    """The preset in a file's text; raise `PresetError` naming the file and the field."""
    try:
        fields = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, lists in lists
        raise PresetError(f"{file}: not TOML: {error}") from None
    try:
        return Preset.model_validate(fields)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        # A missing field is mostly one that was misspelt: name the field that is there.
        first = min(problems, key=lambda item: item["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        problem = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            model: type[BaseModel] = KindNeed if len(first["loc"]) > 1 else Preset
            problem = f"no such field; there are {', '.join(model.model_fields)}"
        raise PresetError(f"{file}: {where + ': ' if where else ''}{problem}") from None


def _shipped() -> Iterator[tuple[str, Preset]]:
    for entry in (files("shared") / "presets_data").iterdir():
        if entry.name.endswith(SUFFIX):
            yield entry.name, parse_preset(entry.name, entry.read_text(encoding="utf-8"))


def _own(folder: Path) -> Iterator[tuple[str, Preset]]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise PresetError(f"{folder}: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith((".", "README")):
            continue
        if entry.suffix != SUFFIX:
            raise PresetError(f"{entry.name}: not a preset, those are called *{SUFFIX}")
        try:
            if not entry.is_file():  # a pipe would wait for a writer
                raise PresetError(f"{entry.name}: not a regular file")
            if entry.stat().st_size > MAX_FILE_BYTES:
                raise PresetError(f"{entry.name}: a preset has {MAX_FILE_BYTES} bytes at most")
            text = entry.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PresetError(f"{entry.name}: cannot be read: {error}") from None
        yield entry.name, parse_preset(entry.name, text)
