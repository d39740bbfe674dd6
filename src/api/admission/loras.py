"""Which LoRAs a request means, whether they were made for its model, and what they cost.

The layers of both are compared when a runner loads them. What can be known without the files is
compared here: the family, and the width by which models of one family differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from api.admission.models import check_readable
from api.schemas.requests import Lora
from shared.db.models import Model, named
from shared.errors import InvalidInput, ModelUnavailable
from shared.models.descriptor import parts_of
from shared.models.families import LORA
from shared.presets import BYTES_OF, StepBudget
from shared.protocol.messages import LoraParams

CAPABILITY = "lora"
# Of the largest layer, while it is changed: its weights, the change and their sum in float32.
_BYTES_PER_NUMBER = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedLora:
    """A LoRA of a request, and how strongly it is added."""

    row: Model
    scale: float

    @property
    def params(self) -> LoraParams:
        """What is pinned on the step."""
        row = self.row
        return LoraParams(
            id=str(row.id),
            name=row.name,
            version=row.version,
            checkpoint_sha256=row.checkpoint_sha256,
            scale=self.scale,
        )


def choose_loras(
    requested: Sequence[Lora], models: Sequence[Model], model: Model
) -> tuple[ResolvedLora, ...]:
    """The LoRAs that a request names, for `model`. Raises `InvalidInput`, `ModelUnavailable`."""
    if requested and CAPABILITY not in model.capabilities:
        able = [each.label for each in models if each.enabled and CAPABILITY in each.capabilities]
        raise InvalidInput(
            f"loras: {model.label} takes none. Models that do: {', '.join(able) or 'none'}. One "
            "that an earlier release registered has to be imported again",
            field="loras",
            models=able,
        )
    rows = [row for row in models if row.kind == LORA]
    readable = [row for row in rows if row.unreadable is None]
    chosen: list[ResolvedLora] = []
    for index, lora in enumerate(requested):
        field = f"loras.{index}.model_id"
        row = _find(field, lora.model_id, rows, models)
        check_readable(row)
        _check_fit(field, row, model, readable)
        if any(row.id == each.row.id for each in chosen):
            raise _invalid(field, f"{row.label} is there twice; add its scales instead")
        chosen.append(ResolvedLora(row=row, scale=float(lora.scale)))
    return tuple(chosen)


def lora_bytes(loras: Sequence[ResolvedLora], model: Model, budget: StepBudget) -> int:
    """Memory of the host that the changed weights take: copies, while a template keeps the model.

    On a GPU's device they take none: there they lie in the place of the weights.
    """
    if not loras or budget.spec.device != "cpu":
        return 0
    parts = parts_of(model.descriptor).values()
    changed = sum(int(lora.row.descriptor["changed_numbers"]) for lora in loras)
    largest = max((part.largest for part in parts), default=0)
    copies = min(changed, sum(part.numbers for part in parts)) if parts else changed
    return copies * BYTES_OF[budget.spec.dtype] + largest * _BYTES_PER_NUMBER


def _find(field: str, reference: str, rows: Sequence[Model], models: Sequence[Model]) -> Model:
    row = next(iter(named(rows, reference)), None)
    if row is None:
        other = next(iter(named(models, reference)), None)
        if other is not None:
            raise _invalid(field, f"{other.label} is no LoRA but a model of the kind {other.kind}")
        raise ModelUnavailable(
            f"{field}: no such LoRA; GET /v1/models lists what there is", field=field
        )
    if not row.enabled:
        raise ModelUnavailable(
            f"{field}: {row.label} is disabled by the operator",
            field=field,
            model_id=str(row.id),
        )
    return row


def _check_fit(field: str, row: Model, model: Model, rows: Sequence[Model]) -> None:
    family, width = row.descriptor["family"], row.descriptor.get("width")
    wanted = model.descriptor.get("lora_width")
    widths_differ = None not in (width, wanted) and width != wanted
    if family == model.kind and not widths_differ:
        return
    fitting = [
        each.label
        for each in rows
        if each.enabled
        and each.descriptor["family"] == model.kind
        and (wanted is None or each.descriptor.get("width") in (None, wanted))
    ]
    made_for = f"models of the kind {family}"
    needs = f"of the kind {model.kind}"
    if family == model.kind:
        made_for, needs = f"{made_for} that are {width} wide", f"{needs} and {wanted} wide"
    raise _invalid(
        field,
        f"{row.label} was made for {made_for}, and {model.label} is {needs}. LoRAs that fit: "
        f"{', '.join(fitting) or 'none is installed'}",
        family=family,
        kind=model.kind,
        loras=fitting,
    )


def _invalid(field: str, problem: str, **details: object) -> InvalidInput:
    return InvalidInput(f"{field}: {problem}", field=field, **details)
