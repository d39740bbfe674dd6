"""The descriptor of a model or a LoRA (`dreamforge.json`), and what it allows in a request.

No file is touched here; `shared.models.verify` reads, checks and writes. torch is never imported:
the API and the command line use this.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from shared.limits import (
    MAX_COUNT,
    MAX_GUIDANCE,
    MAX_LORA_SCALE,
    MAX_LORAS,
    MAX_REFERENCES,
    MAX_SIDE,
    MAX_STEPS,
)
from shared.models.families import FAMILIES, LORA, Kind, LoraFamily
from shared.models.folder import WEIGHTS, Layout
from shared.models.networks import Architecture, Scale
from shared.models.parameters import find_problems
from shared.models.picture_tasks import DEFAULT_STRENGTH

Capability = Literal["generate", "upscale", "image_to_image", "inpaint", "edit", "lora"]
# What a request may not have, because a model does not use it.
Unused = Literal["negative_prompt", "guidance"]
MOST_NUMBERS = 1 << 48  # of a model; the largest in use have 2^36
_JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class StrictRecord(BaseModel):
    """A record of a file that people edit: an unknown field is a typing mistake and is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(StrictRecord):
    """Where the files came from; never with a token."""

    uri: str
    revision: str | None = None


class ModelFile(StrictRecord):
    path: str  # relative to the folder, with forward slashes
    size_bytes: int = Field(ge=0)
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if not value or "\\" in value or path.is_absolute() or ".." in path.parts:
            raise ValueError("must be a relative path inside the model's folder")
        return value


class PartSize(StrictRecord):
    """What one part of a model holds: all of its numbers, and those of its largest tensor.

    Of a transformer also the numbers of its largest block and those outside of its blocks, and how
    many keep their precision where the others are held in 8 bits. Zero: another part, or one that
    an earlier release described. `packed_bytes` is the size of a packed one (GGUF), which is held
    as its file has it.
    """

    # Memory is reckoned from them, and a step's row holds the sum.
    numbers: int = Field(ge=0, le=MOST_NUMBERS)
    largest: int = Field(ge=0, le=MOST_NUMBERS)
    block: int = Field(default=0, ge=0, le=MOST_NUMBERS)
    outside: int = Field(default=0, ge=0, le=MOST_NUMBERS)
    precise: int = Field(default=0, ge=0, le=MOST_NUMBERS)
    packed_bytes: int = Field(default=0, ge=0, le=MOST_NUMBERS)


_parts = TypeAdapter(dict[str, PartSize])


class Range(StrictRecord):
    min: int
    max: int

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Limits(StrictRecord):
    width: Range
    height: Range
    steps: Range = Range(min=1, max=MAX_STEPS)


class Defaults(StrictRecord):
    width: int
    height: int
    steps: int
    guidance: float = Field(ge=0, le=MAX_GUIDANCE)
    scheduler: str | None = None  # None: the folder's own


class Descriptor(StrictRecord):
    """The content of `dreamforge.json`: what every folder of weights says. Sizes are bytes."""

    schema_version: Literal[1] = 1
    name: Name
    version: Name
    kind: str
    # single_file: one `*.safetensors` at the top, and `config/`, a folder of diffusers without any.
    layout: Layout = "diffusers"
    license: str | None = None
    source: Source
    config_source: Source | None = None  # of a single file: where its config/ came from
    files: tuple[ModelFile, ...]
    # By the names of diffusers. Empty: described by a release that did not count.
    parts: dict[str, PartSize] = {}
    checkpoint_sha256: Sha256

    @model_validator(mode="after")
    def _files_are_hashed(self) -> Self:
        paths = [file.path for file in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files must be sorted by path, each once")
        if self.checkpoint_sha256 != checkpoint_hash(self.files):
            raise ValueError("checkpoint_sha256 is not the hash of the listed weights")
        return self


class ModelDescriptor(Descriptor):
    """The descriptor of a model. Sizes of pictures are pixels.

    For an upscaler, `limits` and `defaults` are about its input, and `scale` is the native one: how
    many times as large each side of its result is. One: it restores a picture and enlarges nothing.
    """

    kind: Kind
    defaults: Defaults
    limits: Limits
    # What sides must be multiples of. None: described by a release that took it from the kind.
    side_multiple: int | None = Field(default=None, ge=1, le=MAX_SIDE)
    # A negative prompt has no effect with this guidance, and with less.
    no_guidance: float = Field(default=1.0, ge=0)
    unused: tuple[Unused, ...] = ()
    schedulers: tuple[str, ...] | None = None  # None: all of its kind
    capabilities: tuple[Capability, ...] = ("generate",)
    scale: Scale | None = None
    # Of a network: spandrel's name of its kind. For people; what it is, its tensors say.
    architecture: Architecture | None = None
    references: int | None = Field(default=None, ge=1, le=MAX_REFERENCES)  # of an edit model
    # By which LoRAs of its kind fit: the width of the text that its U-Net attends to, or of its
    # transformer's stream. None: not known, so a LoRA that does not fit fails when it is loaded.
    lora_width: int | None = Field(default=None, ge=1)
    default_preset: Name = "cpu"
    # What the model can draw, where that is a short list (a demo model); for people, not checked.
    vocabulary: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        family = FAMILIES[self.kind]
        upscales = family.upscaling is not None
        if upscales != (self.scale is not None) or upscales != (self.capabilities == ("upscale",)):
            raise ValueError("scale, and the capability upscale alone, go with kinds of upscalers")
        if (self.architecture is not None) != (self.kind == "network"):
            raise ValueError("architecture goes with the kind network")
        if ("edit" in self.capabilities) != (self.references is not None):
            raise ValueError("references go with the capability edit")
        if (self.layout == "network") != (family.pipeline is None):
            networks = ", ".join(kind for kind, row in FAMILIES.items() if row.pipeline is None)
            raise ValueError(f"layout: network is that of the kind {networks}, and of no other")
        if "lora" in self.capabilities and self.kind not in get_args(LoraFamily):
            raise ValueError(f"there are no LoRAs for models of the kind {self.kind}")
        problems = parameter_problems(self, self.defaults.model_dump())
        if problems:
            raise ValueError("defaults: " + "; ".join(f"{k} {v}" for k, v in problems.items()))
        return self


class LoraDescriptor(Descriptor):
    """The descriptor of a LoRA: what it was made for, and what it changes."""

    kind: Literal["lora"]
    layout: Literal["network"] = "network"
    family: LoraFamily  # the kind of the models that it changes
    width: int | None = Field(default=None, ge=1)  # as a model's `lora_width`
    ranks: Range
    changed_numbers: int = Field(ge=1)  # of the weights that it changes
    data_sha256: Sha256  # of its file without the header: the hash by which other tools know it


def parse_descriptor(fields: Mapping[str, Any]) -> ModelDescriptor | LoraDescriptor:
    """The descriptor with these fields. Raises `ValidationError`."""
    record = LoraDescriptor if fields.get("kind") == LORA else ModelDescriptor
    return record.model_validate(fields)


def capabilities_of(descriptor: Descriptor) -> tuple[Capability, ...]:
    """What it can do by itself; a LoRA can nothing."""
    return descriptor.capabilities if isinstance(descriptor, ModelDescriptor) else ()


def schema_of(descriptor: Descriptor) -> dict[str, Any]:
    """`parameters_schema` of a model; of a LoRA, which is no request's model, one of nothing."""
    if isinstance(descriptor, ModelDescriptor):
        return parameters_schema(descriptor)
    title = f"{descriptor.name}@{descriptor.version}"
    return {"$schema": _JSON_SCHEMA, "title": title, "type": "object", "properties": {}}


def parts_of(descriptor: Mapping[str, Any]) -> dict[str, PartSize]:
    """`parts` of a descriptor as it is stored, which may be of another release, or of none.

    Parts that cannot be read count as parts that were not counted.
    """
    try:
        return _parts.validate_python(descriptor["parts"])
    except (KeyError, TypeError, ValidationError):  # no object, or none that has parts
        return {}


def checkpoint_hash(files: Iterable[ModelFile]) -> str:
    """One hash for all weights: what `sha256sum $(sorted weights) | sha256sum` says."""
    weights = sorted((f for f in files if f.path.endswith(WEIGHTS)), key=lambda f: f.path)
    return hashlib.sha256("".join(f"{f.sha256}  {f.path}\n" for f in weights).encode()).hexdigest()


def parameters_schema(model: ModelDescriptor) -> dict[str, Any]:
    """The part of a request that depends on the model, as JSON Schema 2020-12."""
    defaults, limits, family = model.defaults, model.limits, FAMILIES[model.kind]
    schedulers = family.schedulers if model.schedulers is None else model.schedulers
    # A bound of zero still allows an empty prompt and no guidance.
    longest = 0 if "negative_prompt" in model.unused else family.max_negative_prompt
    strongest = 0.0 if "guidance" in model.unused else MAX_GUIDANCE
    side = {"multipleOf": model.side_multiple or family.side_multiple}
    without_guidance = {"properties": {"guidance": {"maximum": model.no_guidance}}}
    without_negative_prompt = {"properties": {"negative_prompt": {"maxLength": 0}}}
    return {
        "$schema": _JSON_SCHEMA,
        "title": f"{model.name}@{model.version}",
        "type": "object",
        "properties": {
            "negative_prompt": {
                "type": "string",
                "maxLength": longest,
                "default": "",
            },
            "width": _integer(limits.width, defaults.width) | side,
            "height": _integer(limits.height, defaults.height) | side,
            "steps": _integer(limits.steps, defaults.steps),
            "guidance": {
                "type": "number",
                "minimum": 0,
                "maximum": strongest,
                "default": defaults.guidance,
            },
            # null: the scheduler that the model's folder comes with
            "scheduler": {
                "enum": [None, *schedulers],
                "default": defaults.scheduler,
            },
            "count": _integer(Range(min=1, max=MAX_COUNT), 1),
            "format": {"enum": ["png", "jpg", "webp"], "default": "png"},
            **_pictures(model),
            **_loras(model),
        },
        # Guidance is what keeps away from the negative prompt.
        "if": without_guidance | {"required": ["guidance"]},
        "then": without_negative_prompt,
    }


def _pictures(model: ModelDescriptor) -> dict[str, Any]:
    """What a request may start from; without an entry the model does not take it."""
    capabilities = model.capabilities
    id_ = {"type": "string", "format": "uuid"}
    rules: dict[str, Any] = {}
    if "image_to_image" in capabilities:
        rules["image"] = id_
        rules["strength"] = {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1,
            "default": DEFAULT_STRENGTH,
        }
    if "inpaint" in capabilities:
        rules["mask"] = id_
    if "edit" in capabilities:
        rules["images"] = {
            "type": "array",
            "items": id_,
            "minItems": 1,
            "maxItems": model.references or MAX_REFERENCES,
        }
    return rules


def _loras(model: ModelDescriptor) -> dict[str, Any]:
    """What a request may say of LoRAs; nothing where the model takes none."""
    if "lora" not in model.capabilities:
        return {}
    scale = {"type": "number", "minimum": -MAX_LORA_SCALE, "maximum": MAX_LORA_SCALE}
    lora = {
        "type": "object",
        "properties": {"model_id": {"type": "string"}, "scale": scale | {"default": 1.0}},
        "required": ["model_id"],
        "additionalProperties": False,
    }
    return {"loras": {"type": "array", "items": lora, "maxItems": MAX_LORAS}}


def parameter_problems(model: ModelDescriptor, values: Mapping[str, Any]) -> dict[str, str]:
    """Each parameter that the model does not accept, with what it would accept instead."""
    problems = find_problems(parameters_schema(model), values)
    return {problem.field: problem.message for problem in reversed(problems)}  # the first of each


def _integer(bounds: Range, default: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": bounds.min, "maximum": bounds.max, "default": default}
