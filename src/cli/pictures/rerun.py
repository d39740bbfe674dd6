"""Build the request that makes a picture again: its seed, one item, its checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cli.client.http import Client
from cli.errors import Failure
from cli.pictures.reader import (
    InputMetadata,
    LoraMetadata,
    ModelMetadata,
    PictureMetadata,
    PictureText,
    UpscaleMetadata,
)


def build_request(
    facts: PictureMetadata,
    format: str,
    preset: str | None,
    *,
    upscaler: str | None = None,
    loras: Sequence[str] = (),
) -> dict[str, Any]:
    """The fields of the create body, without the model. `preset` overrides the picture's own.

    `upscaler` is the id of the model that enlarged the picture, or None; `loras` are the ids of
    those that were added.
    """
    fields: dict[str, Any] = _size(facts, upscaler) | {
        "steps": facts.steps,
        "guidance": facts.guidance,
        "seed": facts.seed,
        "count": 1,
        "format": format,
        "preset": preset or facts.preset.name,
    }
    fields |= _sources(facts)
    if loras:
        scales = [each.scale for each in facts.loras]
        fields["loras"] = [
            {"model_id": id, "scale": scale} for id, scale in zip(loras, scales, strict=True)
        ]
    if format == "webp" and facts.webp_quality is not None:
        fields["webp_quality"] = facts.webp_quality
    if facts.negative_prompt:
        fields["negative_prompt"] = facts.negative_prompt
    if facts.scheduler is not None:
        fields["scheduler"] = facts.scheduler
    return fields


def _sources(facts: PictureMetadata) -> dict[str, Any]:
    """The inputs that it was started from; the API refuses those that are pruned by now."""
    fields: dict[str, Any] = {} if facts.strength is None else {"strength": facts.strength}
    for each in facts.inputs:
        match each.role:
            case "reference":
                fields.setdefault("images", []).append(each.id)
            case "alpha_mask":
                fields |= {"mask": each.id, "mask_rule": "transparent"}
            case role:
                fields[role] = each.id
    return fields


def _size(facts: PictureMetadata, upscaler: str | None) -> dict[str, Any]:
    """The size that the first step makes, and what the second step does with it."""
    match facts.type, facts.upscale, facts.input:
        case "generate", None, None:
            return {"width": facts.width, "height": facts.height}
        case "upscale", UpscaleMetadata() as step, InputMetadata() as original:
            upscale: dict[str, Any] = {"scale": step.scale, "impl": step.impl}
            if upscaler is not None:
                upscale["model_id"] = upscaler
            chain = {"upscale": upscale}
            return {"width": original.width, "height": original.height, "chain": chain}
        case _:
            raise Failure(f"a step of type {facts.type!r} made it, which cannot be repeated")


def find_upscaler(client: Client, facts: PictureMetadata) -> str | None:
    """The id of the model that enlarged the picture, or None."""
    upscaler = None if facts.upscale is None else facts.upscale.model
    return None if upscaler is None else find_model(client, upscaler)


def find_loras(client: Client, facts: PictureMetadata) -> list[str]:
    """The ids of the LoRAs that were added, in their order."""
    return [find_model(client, each) for each in facts.loras]


def find_model(client: Client, original: ModelMetadata | LoraMetadata) -> str:
    """The id of the installed model or LoRA with the original's checkpoint, under any name."""
    installed = client.models()["models"]
    for model in installed:
        if model["checkpoint_sha256"] == original.checkpoint_sha256:
            return model["id"]
    name, sha256 = f"{original.name}@{original.version}", original.checkpoint_sha256[:12]
    for model in installed:
        if (model["name"], model["version"]) == (original.name, original.version):
            raise Failure(
                f"{name} is installed with another checkpoint, {model['checkpoint_sha256'][:12]}…; "
                f"the picture was made with {sha256}…",
                hint="it would be another picture; `dreamforge job create` makes one all the same",
            )
    raise Failure(
        f"no model with the picture's checkpoint is installed ({name}, {sha256}…)",
        hint="`dreamforge model list` shows the models that there are",
    )


def differences(before: PictureText, after: PictureText) -> list[str]:
    """What differed between two runs of one request, as far as the two pictures say."""
    old, new = (_settings(picture.dreamforge or {}) for picture in (before, after))
    return [
        f"{name} {new.get(name, 'unknown')} (was {old.get(name, 'unknown')})"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _settings(ours: dict[str, Any]) -> dict[str, Any]:
    """What decides a picture or its file besides the request, in one flat object."""
    settings: dict[str, Any] = {
        name: ours[name] for name in ("jpeg_quality", "webp_quality") if name in ours
    }
    for group in ("preset", "software"):
        inner = ours.get(group)
        settings |= inner if isinstance(inner, dict) else {}
    return settings


def same_pixels(one: Path, other: Path) -> bool:
    """Whether two files show exactly the same picture."""
    with Image.open(one) as first, Image.open(other) as second:
        a, b = ((image.mode, image.size, image.tobytes()) for image in (first, second))
        return a == b
