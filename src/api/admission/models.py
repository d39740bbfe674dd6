"""Which model a reference means: an id, a name (its newest version), or `name@version`."""

from collections.abc import Sequence

from shared.db.models import Model, named
from shared.errors import InvalidInput, ModelUnavailable
from shared.models.descriptor import Capability
from shared.models.families import LORA
from shared.models.parameters import UnreadableSchema, check_schema

# The field of a request that asks for it.
_FIELDS: dict[Capability, str] = {
    "generate": "model_id",
    "upscale": "model_id",
    "image_to_image": "image",
    "inpaint": "mask",
    "edit": "images",
    "lora": "loras",
}


def find_model(models: Sequence[Model], reference: str) -> Model | None:
    """The model that `reference` names, or a LoRA where no model has that name.

    Of each name the newest version comes first in `models`.
    """
    found = sorted(named(models, reference), key=lambda model: model.kind == LORA)
    return next(iter(found), None)


def choose_model(
    models: Sequence[Model], reference: str | None, *, default: str | None, capability: Capability
) -> Model:
    """The model of a job's first step, enabled and able to do it.

    Raises `ModelUnavailable`, or `InvalidInput` when it could be several or cannot do it.
    """
    if reference is not None:
        model = find_model(models, reference)
        missing = "model_id: no such model; GET /v1/models lists what there is"
    elif default is not None:
        model = find_model(models, default)
        missing = "model_id: the default model (DF_DEFAULT_MODEL) is not installed"
    else:
        return _only_model(models, capability)
    if model is None:
        raise ModelUnavailable(missing, field="model_id")
    _check_usable(model, capability, models)
    return model


def _only_model(models: Sequence[Model], capability: Capability) -> Model:
    usable = [model for model in models if model.enabled and capability in model.capabilities]
    if not usable and capability != "generate":
        raise InvalidInput(
            f"{_FIELDS[capability]}: no model here can do that ({capability}); GET /v1/models says "
            "what each can",
            field=_FIELDS[capability],
        )
    editing = [model.label for model in models if model.enabled and "edit" in model.capabilities]
    if not usable and editing:
        raise InvalidInput(
            "images: the models here change pictures and make none from words alone; send one in "
            f"images, or install another model. They are: {', '.join(editing[:10])}",
            field="images",
            models=editing,
        )
    if not usable:
        raise ModelUnavailable(
            "no model is installed; `dreamforge model import <folder>` registers one"
        )
    if len(usable) > 1:
        names = [model.label for model in usable]
        raise InvalidInput(
            f"model_id: there are several models, name one of: {', '.join(names[:10])}",
            field="model_id",
            models=names,
        )
    check_readable(usable[0])
    return usable[0]


def check_readable(model: Model) -> None:
    """Raise `ModelUnavailable` for one whose row another release, or a person, has written."""
    if model.unreadable is not None:
        raise unreadable(model)
    try:
        check_schema(model.parameters_schema)
    except UnreadableSchema:
        raise unreadable(model) from None


def unreadable(model: Model) -> ModelUnavailable:
    return ModelUnavailable(
        f"this release cannot read what the registry says of {model.label}; import it again",
        model_id=str(model.id),
    )


def _check_usable(model: Model, capability: Capability, models: Sequence[Model]) -> None:
    if not model.enabled:
        raise ModelUnavailable(
            f"model_id: {model.label} is disabled by the operator; "
            "`GET /v1/models` shows which are not",
            field="model_id",
            model_id=str(model.id),
        )
    check_readable(model)
    if capability in model.capabilities:
        return
    field, can = _FIELDS[capability], ", ".join(model.capabilities) or "nothing"
    if model.kind == LORA:
        raise InvalidInput(
            f"model_id: {model.label} is a LoRA, which changes a model and is none; name it in "
            "loras, beside a model",
            field="model_id",
        )
    if capability == "generate" and "edit" in model.capabilities:
        raise InvalidInput(
            f"images: {model.label} changes pictures and makes none from words alone; send one in "
            "images, or name another model",
            field="images",
            capabilities=list(model.capabilities),
        )
    if field == "model_id":
        raise InvalidInput(
            f"{field}: {model.label} cannot {capability}; it can: {can}",
            field=field,
            capabilities=list(model.capabilities),
        )
    able = [each.label for each in models if each.enabled and capability in each.capabilities]
    raise InvalidInput(
        f"{field}: {model.label} cannot do that ({capability}); it can: {can}. Models that can: "
        f"{', '.join(able) or 'none'}",
        field=field,
        capabilities=list(model.capabilities),
        models=able,
    )
