"""Resolve: the models and the preset that a request means, by the names that it has for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.admission.loras import ResolvedLora, choose_loras
from api.admission.models import choose_model
from api.admission.upscalers import choose_upscaler
from api.schemas.requests import CreateJob
from shared.db.models import Model
from shared.db.workers import Worker
from shared.models.descriptor import parts_of
from shared.presets import Preset, StepBudget, preset
from shared.settings import Settings

DEFAULT_PRESET = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What a job is planned with. `upscaler` is None where no step needs one."""

    model: Model
    loras: tuple[ResolvedLora, ...]
    upscaler: Model | None
    preset: Preset
    vram_factor: float

    def budget(self, model: Model | None, pixels: int) -> StepBudget:
        """What a step with `model` may use for a picture of `pixels`; None: it loads no model."""
        kind = None if model is None else model.kind
        parts = {} if model is None else parts_of(model.descriptor)
        return self.preset.budget_for(kind, pixels, parts, vram_factor=self.vram_factor)


def resolve(
    body: CreateJob, models: Sequence[Model], live: Sequence[Worker], settings: Settings
) -> Resolved:
    """The models and the preset of `body`. Raises `InvalidInput` or `ModelUnavailable`."""
    model = choose_model(
        models, body.model_id, default=settings.default_model, capability=body.capability
    )
    upscale = body.upscale
    name = body.preset or model.descriptor.get("default_preset") or DEFAULT_PRESET
    return Resolved(
        model=model,
        loras=choose_loras(body.loras, models, model),
        upscaler=None if upscale is None else choose_upscaler(upscale, models, live),
        preset=preset(name, settings.presets_dir),
        vram_factor=settings.vram_factor,
    )
