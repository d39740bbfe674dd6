"""What an enlarged picture says about its making: all that its original said, and what was done.

The `parameters` text stays that of the generation, `Size` included, so that a tool that reads it
draws the same picture; what was done to it is appended with the keys of the web UI's own upscaler
("Postprocess upscale by", "Postprocess upscaler"), which read back as what they are. The
`dreamforge` object is that of the generation (prompt, model, sampling) with size and step of this
one, and `upscale` and `input` beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runner.images.metadata import SCHEMA_VERSION, EmbeddedMetadata, encoding_facts, quote
from shared.protocol.messages import InputSpec, UpscaleSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class UpscaleFacts:
    """Everything that is known about one enlarged item. Sizes are pixels: `native` what the
    upscaler made, `size` what it was then brought to."""

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
    done = ", ".join(f"{key}: {quote(value)}" for key, value in pairs.items())
    return f"{facts.before.parameters}, {done}" if facts.before.parameters else done


def _full(facts: UpscaleFacts) -> dict[str, Any]:
    spec, source, model = facts.spec, facts.source, facts.spec.model
    return {
        **(facts.before.dreamforge or {}),
        "schema_version": SCHEMA_VERSION,
        "type": spec.type,
        "seed": source.seed,
        "width": facts.size[0],
        "height": facts.size[1],
        **encoding_facts(spec.params.format, spec.params.jpeg_quality),
        "preset": spec.preset.model_dump(mode="json"),
        "job_id": spec.job_id,
        "step": spec.step_name,
        "step_id": spec.step_id,
        "item_index": source.item_index,
        "software": facts.versions,
        "upscale": {
            "scale": spec.params.scale,
            "impl": spec.params.impl,
            "native_width": facts.native[0],
            "native_height": facts.native[1],
            "model": None if model is None else model.model_dump(mode="json", exclude={"folder"}),
        },
        "input": {"sha256": source.sha256, "width": source.width, "height": source.height},
    }
