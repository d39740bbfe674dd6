"""From a stored step to what its runner is told."""

from __future__ import annotations

from pydantic import ValidationError

from shared.claims import Claim
from shared.messages import GenerateParams, ModelSpec, PresetSpec, RunSpec


class Unreadable(Exception):
    """The stored step is not one that this release can run; the message says which field."""


def run_spec(claim: Claim, *, model_folder: str) -> RunSpec:
    """Everything that the runner needs, checked. Raises `Unreadable`.

    A row may be older or newer than this worker. One that does not fit must fail alone: raised
    inside a driver it would take the whole worker down, again and again.
    """
    try:
        return RunSpec(
            job_id=str(claim.job_id),
            step_id=str(claim.step_id),
            step_name=claim.name,
            type=claim.type,  # type: ignore[arg-type]  # checked right here
            model=ModelSpec(
                id=str(claim.model_id),
                name=claim.model_name,
                version=claim.model_version,
                kind=claim.model_kind,
                folder=model_folder,
                checkpoint_sha256=claim.checkpoint_sha256,
            ),
            preset=_preset(claim),
            params=GenerateParams.model_validate(claim.params),
            done_items=list(claim.done_items),
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Unreadable(f"the stored step cannot be run: {field}: {first['msg']}") from None


def _preset(claim: Claim) -> PresetSpec:
    """The runner's part of what was pinned; the limits beside it did their work at create."""
    fields = PresetSpec.model_fields
    return PresetSpec.model_validate({n: v for n, v in claim.preset.items() if n in fields})
