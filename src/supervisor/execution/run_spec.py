"""Builds the specification that a runner gets from the stored step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from shared.models.families import LORA
from shared.presets import host_bytes
from shared.protocol.messages import InputSpec, LoraParams, PresetSpec, RunSpec, SourceSpec
from shared.protocol.template_messages import HostModelSpec, host_model_of
from shared.step_store import Claim, PinnedModel, UpcomingStep
from supervisor.templates.model_template import WantedModel

_specs: TypeAdapter[RunSpec] = TypeAdapter(RunSpec)
_loras = TypeAdapter(list[LoraParams])


# What each type of step is told of the pictures that it starts from.
_INPUT_FIELDS = {"generate": SourceSpec.model_fields, "upscale": InputSpec.model_fields}


class UnreadableStep(Exception):
    """The stored step is not one that this release can run; the message says which field."""


def run_spec(claim: Claim, model_folder: Callable[[PinnedModel], Path]) -> RunSpec:
    """Everything that the runner needs, checked. Raises `UnreadableStep`.

    A row may be older or newer than this worker. A row that does not fit must fail alone, and not
    the executor, again and again.
    """
    if claim.unreadable is not None:
        raise UnreadableStep(f"the stored step cannot be run: {claim.unreadable}")
    facts: dict[str, Any] = {
        "job_id": str(claim.job_id),
        "step_id": str(claim.step_id),
        "step_name": claim.name,
        "type": claim.type,
        "model": None if claim.model is None else _model(claim.model, model_folder(claim.model)),
        # The runner's part of the pinned preset; the limits beside it were checked at create.
        "preset": {
            name: claim.preset[name] for name in PresetSpec.model_fields if name in claim.preset
        },
        "params": claim.params,
        "done_items": list(claim.done_items),
    }
    if loras := claim.params.get("loras"):
        facts["lora_folders"] = _lora_folders(loras, model_folder)
    fields = _INPUT_FIELDS.get(claim.type, {})
    if claim.inputs or claim.type == "upscale":
        facts["inputs"] = [
            {name: getattr(each, name, None) for name in fields} for each in claim.inputs
        ]
    try:
        return _specs.validate_python(facts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # The union's own tag is no field of the step.
        field = ".".join(str(part) for part in first["loc"] if part != claim.type)
        raise UnreadableStep(f"the stored step cannot be run: {field}: {first['msg']}") from None


def _lora_folders(loras: Any, model_folder: Callable[[PinnedModel], Path]) -> list[str]:
    """Where the LoRAs of a stored step lie on this host. Raises `UnreadableStep`."""
    try:
        pinned = _loras.validate_python(loras)
        return [
            str(
                model_folder(
                    PinnedModel(
                        id=UUID(each.id),
                        name=each.name,
                        version=each.version,
                        kind=LORA,
                        checkpoint_sha256=each.checkpoint_sha256,
                    )
                )
            )
            for each in pinned
        ]
    except ValueError as error:
        raise UnreadableStep(f"the stored step cannot be run: params.loras: {error}") from None


def wanted_model(spec: RunSpec, model: PinnedModel | None) -> WantedModel | None:
    """What the runner of this step loads onto the host; None when the step needs no model."""
    host_model = host_model_of(spec)
    if host_model is None or model is None:
        return None
    return WantedModel(
        spec=host_model,
        size_bytes=host_bytes(model.parts, host_model.dtype),
        with_loras=bool(getattr(spec, "lora_folders", ())),
    )


def upcoming_model(
    step: UpcomingStep, model_folder: Callable[[PinnedModel], Path]
) -> WantedModel | None:
    """The same for a step that waits; None also where this release cannot read it."""
    if step.model is None:
        return None
    try:
        spec = HostModelSpec.model_validate(
            {
                "loader": step.type if step.type == "generate" else step.params.get("impl"),
                "model": _model(step.model, model_folder(step.model)),
                "dtype": step.preset.get("dtype"),
            }
        )
    except ValidationError:
        return None
    return WantedModel(spec=spec, size_bytes=host_bytes(step.model.parts, spec.dtype))


def _model(model: PinnedModel, folder: Path) -> dict[str, Any]:
    return {
        "id": str(model.id),
        "name": model.name,
        "version": model.version,
        "kind": model.kind,
        "folder": str(folder),
        "checkpoint_sha256": model.checkpoint_sha256,
    }
