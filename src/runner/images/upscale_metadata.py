"""What an enlarged picture says about its making: all that its original said, and the upscale.

The `parameters` text stays that of the generation, `Size` included, so that a tool that reads it
draws the same picture; the upscale is appended with the keys of the web UI's own upscaler
("Postprocess upscale by", "Postprocess upscaler"), which read back as what they are. The
`dreamforge` object is that of the generation (prompt, model, sampling) with size and step of this
one, and `upscale` and `input` beside it.
"""

from dataclasses import dataclass
from typing import Any

from runner.images.metadata import (
    SCHEMA_VERSION,
    EmbeddedMetadata,
    encoding_facts,
    model_facts,
    quote,
    step_facts,
)
from shared.protocol.messages import InputSpec, UpscaleSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class UpscaleFacts:
    """Everything about one enlarged item that its metadata says. Sizes are pixels: `native` is
    that of the upscaler's result, `size` that of the picture."""

    spec: UpscaleSpec
    source: InputSpec
    upscaler: str
    native: tuple[int, int]
    size: tuple[int, int]
    before: EmbeddedMetadata
    versions: dict[str, str]


def describe_upscale(facts: UpscaleFacts) -> EmbeddedMetadata:
    return EmbeddedMetadata(parameters=_parameters(facts), dreamforge=_full(facts))


def _parameters(facts: UpscaleFacts) -> str:
    pairs = {
        "Postprocess upscale by": facts.spec.params.scale,
        "Postprocess upscaler": facts.upscaler,
    }
    upscale = ", ".join(f"{key}: {quote(value)}" for key, value in pairs.items())
    return f"{facts.before.parameters}, {upscale}" if facts.before.parameters else upscale


def _full(facts: UpscaleFacts) -> dict[str, Any]:
    spec, source, model = facts.spec, facts.source, facts.spec.model
    return {
        **(facts.before.dreamforge or {}),
        "schema_version": SCHEMA_VERSION,
        "type": spec.type,
        "seed": source.seed,
        "width": facts.size[0],
        "height": facts.size[1],
        **encoding_facts(spec.params),
        **step_facts(spec, source.item_index, facts.versions),
        "upscale": {
            "scale": spec.params.scale,
            "impl": spec.params.impl,
            "native_width": facts.native[0],
            "native_height": facts.native[1],
            "model": None if model is None else model_facts(model),
        },
        "input": {"sha256": source.sha256, "width": source.width, "height": source.height},
    }
