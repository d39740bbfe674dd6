"""What a picture says about its making, in the two forms that tools read.

`parameters` is the text that AUTOMATIC1111's web UI writes and nearly every image tool parses:

    <prompt>
    Negative prompt: <negative prompt>
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model hash: …, Model: …

Its parser wants at least three `key: value` pairs on the last line and reads a value with a comma,
a colon or a newline as a JSON string. The form is ambiguous where a prompt itself contains a line
that begins with "Negative prompt:"; `dreamforge`, a JSON object with all facts, is not.

JPEG and WebP have no text chunks. There the text goes to EXIF `UserComment`, as the web UI does it,
and the object to a comment segment, in WebP to EXIF `ImageDescription`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin
from PIL.ImageFile import ImageFile

from shared.protocol.messages import (
    GenerateSpec,
    LoraParams,
    ModelSpec,
    OutputParams,
    StepSpec,
)

SCHEMA_VERSION = 1
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
IMAGE_DESCRIPTION = 0x010E
# EXIF 2.3, table 9: eight bytes that name the encoding. "Unicode" there means UTF-16; Pillow writes
# a big-endian TIFF header, so big-endian text is right for readers that follow the file's order.
UNICODE = b"UNICODE\x00"

# diffusers class -> the web UI's name; of a DPM-Solver its options say which one it is.
SAMPLERS = {
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "PLMS",
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "UniPCMultistepScheduler": "UniPC",
    "FlowMatchEulerDiscreteScheduler": "Euler",
}
# An option of a scheduler -> what the web UI calls its "Schedule type".
SCHEDULES = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedMetadata:
    """What is written into a file: the text for other tools, and the object with everything."""

    parameters: str
    dreamforge: dict[str, Any] | None  # None: read from a file that has none


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraFacts:
    """A LoRA that was added, and the hash by which other tools know it."""

    params: LoraParams
    data_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationFacts:
    """Everything about one finished item that its metadata says."""

    spec: GenerateSpec
    item_index: int
    seed: int
    weights_sha256: str  # the hash by which other tools know a checkpoint
    loras: Sequence[LoraFacts]
    scheduler: str | None
    sampler: str  # the diffusers class that sampled it, and its configuration
    sampler_options: Mapping[str, Any]
    versions: dict[str, str]


def parameters_text(facts: GenerationFacts, width: int, height: int) -> str:
    """The `parameters` text. Sizes are those of the finished picture, in pixels."""
    params, model = facts.spec.params, facts.spec.model
    loras = lora_names(facts.loras)
    tags = (f" <lora:{name}:{_plain(each.params.scale)}>" for name, each in loras.items())
    lines = [params.prompt + "".join(tags)]
    if params.negative_prompt:
        lines.append(f"Negative prompt: {params.negative_prompt}")
    pairs: dict[str, object] = {
        "Steps": params.steps,
        "Sampler": sampler_name(facts),
        "Schedule type": schedule_type(facts),
        "CFG scale": _plain(params.guidance),
        "Seed": facts.seed,
        "Size": f"{width}x{height}",
        "Denoising strength": params.strength,
        "Model hash": facts.weights_sha256[:10],
        "Model": f"{model.name}@{model.version}",
        "Lora hashes": ", ".join(f"{n}: {each.data_sha256[:12]}" for n, each in loras.items())
        or None,
        "Version": f"dreamforge {facts.versions.get('dreamforge', 'source')}",
    }
    lines.append(", ".join(f"{key}: {quote(v)}" for key, v in pairs.items() if v is not None))
    return "\n".join(lines)


def lora_names(loras: Sequence[LoraFacts]) -> dict[str, LoraFacts]:
    """The LoRAs by the names that a text has for them; with its version where a name is shared."""
    names = [each.params.name for each in loras]
    return {
        name if names.count(name) == 1 else f"{name}@{each.params.version}": each
        for name, each in zip(names, loras, strict=True)
    }


def _plain(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def sampler_name(facts: GenerationFacts) -> str:
    """The sampler's name, whether the request named it or it is the folder's own."""
    name = SAMPLERS.get(facts.sampler, facts.sampler.removesuffix("Scheduler"))
    if facts.sampler_options.get("solver_order") == 3:
        name = name.replace("2M", "3M")
    stochastic = str(facts.sampler_options.get("algorithm_type", "")).startswith("sde-")
    return f"{name} SDE" if stochastic else name


def schedule_type(facts: GenerationFacts) -> str | None:
    """How the noise levels are spaced; None: as the model was trained."""
    return next((name for key, name in SCHEDULES.items() if facts.sampler_options.get(key)), None)


def quote(value: object) -> str:
    """A value as the web UI's own `quote` writes it."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text


def full_metadata(facts: GenerationFacts, width: int, height: int) -> dict[str, Any]:
    """All facts, enough to request the same picture again."""
    spec, params, model = facts.spec, facts.spec.params, facts.spec.model
    return {
        "schema_version": SCHEMA_VERSION,
        "type": spec.type,
        "prompt": params.prompt,
        "negative_prompt": params.negative_prompt,
        "seed": facts.seed,
        "scheduler": facts.scheduler,
        "scheduler_class": facts.sampler,
        "steps": params.steps,
        "guidance": params.guidance,
        "width": width,
        "height": height,
        **encoding_facts(params),
        **source_facts(spec),
        "model": model_facts(model),
        **_lora_facts(facts.loras),
        **step_facts(spec, facts.item_index, facts.versions),
    }


def source_facts(spec: GenerateSpec) -> dict[str, Any]:
    """The pictures that it started from; nothing where it was drawn from the text alone."""
    if not spec.inputs:
        return {}
    names = {"role", "id", "sha256", "width", "height"}
    inputs = [source.model_dump(mode="json", include=names) for source in spec.inputs]
    strength = {} if spec.params.strength is None else {"strength": spec.params.strength}
    return {**strength, "inputs": inputs}


def _lora_facts(loras: Sequence[LoraFacts]) -> dict[str, Any]:
    """The LoRAs in their order; nothing where there are none."""
    facts = [
        each.params.model_dump(mode="json") | {"data_sha256": each.data_sha256} for each in loras
    ]
    return {"loras": facts} if facts else {}


def model_facts(model: ModelSpec) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude={"folder"})


def step_facts(spec: StepSpec, item_index: int, versions: dict[str, str]) -> dict[str, Any]:
    """Where in the system the picture was made, and with which software."""
    return {
        "preset": spec.preset.model_dump(mode="json"),
        "job_id": spec.job_id,
        "step": spec.step_name,
        "step_id": spec.step_id,
        "item_index": item_index,
        "software": versions,
    }


def encoding_facts(params: OutputParams) -> dict[str, Any]:
    """The setting that changes the bytes of a file; there is none for a PNG."""
    match params.format:
        case "jpg":
            return {"jpeg_quality": params.jpeg_quality}
        case "webp":  # null: lossless
            return {"webp_quality": params.webp_quality}
        case _:
            return {}


def describe_generation(facts: GenerationFacts, width: int, height: int) -> EmbeddedMetadata:
    """The metadata of a generated picture of this size, in pixels."""
    return EmbeddedMetadata(
        parameters=parameters_text(facts, width, height),
        dreamforge=full_metadata(facts, width, height),
    )


def png_chunks(texts: EmbeddedMetadata) -> PngImagePlugin.PngInfo:
    """`parameters` and `dreamforge`: tEXt where Latin-1 can say it, iTXt otherwise."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", texts.parameters)
    chunks.add_text("dreamforge", json.dumps(texts.dreamforge, ensure_ascii=False))
    return chunks


def jpeg_comment(texts: EmbeddedMetadata) -> bytes:
    """The `dreamforge` object for a comment segment, whose bound of 65,533 bytes it keeps.

    Two prompts of 4096 characters are 49,152 bytes at most, when each has to be escaped.
    """
    if texts.dreamforge is None:
        return b""
    return json.dumps(texts.dreamforge, ensure_ascii=False).encode()


def jpeg_exif(texts: EmbeddedMetadata) -> bytes:
    """An EXIF block with the `parameters` text as a Unicode UserComment."""
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UNICODE + texts.parameters.encode("utf-16-be")
    return exif.tobytes()


def webp_exif(texts: EmbeddedMetadata) -> bytes:
    """The same block with the `dreamforge` object as ImageDescription: WebP has no comments."""
    exif = Image.Exif()
    exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UNICODE + texts.parameters.encode("utf-16-be")
    if texts.dreamforge is not None:
        exif[IMAGE_DESCRIPTION] = json.dumps(texts.dreamforge)  # ASCII, as the field must be
    return exif.tobytes()


def read_metadata(image: ImageFile) -> EmbeddedMetadata:
    """The metadata of a picture that a runner made; empty where it has none."""
    written: Any
    if image.format in ("JPEG", "WEBP"):
        exif = image.getexif()
        comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
        text = bytes(comment).removeprefix(UNICODE).decode("utf-16-be")
        webp = image.format == "WEBP"
        written = exif.get(IMAGE_DESCRIPTION) if webp else image.info.get("comment")
    else:
        text = str(image.info.get("parameters", ""))
        written = image.info.get("dreamforge")
    return EmbeddedMetadata(
        parameters=text,
        dreamforge=None if written is None else json.loads(written),
    )
