"""From a picture back to the request that makes it again: its seed, one item, its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from cli.client import Client
from cli.failures import Failure
from cli.picture_file import PictureFacts


def request(facts: PictureFacts, format: str, preset: str | None) -> dict[str, Any]:
    """The fields of the create body, without the model. `preset` overrides the picture's own."""
    if facts.type != "generate":
        raise Failure(f"a step of type {facts.type!r} made it; only `generate` can be repeated")
    fields: dict[str, Any] = {
        "width": facts.width,
        "height": facts.height,
        "steps": facts.steps,
        "guidance": facts.guidance,
        "seed": facts.seed,
        "count": 1,
        "format": format,
        "preset": preset or facts.preset.name,
    }
    if facts.negative_prompt:
        fields["negative_prompt"] = facts.negative_prompt
    if facts.scheduler is not None:
        fields["scheduler"] = facts.scheduler
    return fields


def model_of(client: Client, facts: PictureFacts) -> str:
    """The id of the model with the picture's checkpoint, whatever it is called there."""
    wanted = facts.model
    known = client.get("/v1/models")["models"]
    for model in known:
        if model["checkpoint_sha256"] == wanted.checkpoint_sha256:
            return str(model["id"])
    name = f"{wanted.name}@{wanted.version}"
    for model in known:
        if (model["name"], model["version"]) == (wanted.name, wanted.version):
            raise Failure(
                f"{name} is installed with another checkpoint, {model['checkpoint_sha256'][:12]}…; "
                f"the picture was made with {wanted.checkpoint_sha256[:12]}…",
                hint="it would be another picture; `dreamforge job create` makes one all the same",
            )
    raise Failure(
        f"no model with the picture's checkpoint is installed ({name}, "
        f"{wanted.checkpoint_sha256[:12]}…)",
        hint="`dreamforge model list` shows the models that there are",
    )


def same_pixels(one: Path, other: Path) -> bool:
    """Whether two files show exactly the same picture."""
    with Image.open(one) as first, Image.open(other) as second:
        return (first.mode, first.size, first.tobytes()) == (
            second.mode,
            second.size,
            second.tobytes(),
        )
