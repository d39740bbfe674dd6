"""Which model a reference means: an id, a name (its newest version), or `name@version`."""

from collections.abc import Sequence

from shared.db.models import Model, named
from shared.errors import InvalidInput, ModelUnavailable


def find_model(models: Sequence[Model], reference: str) -> Model | None:
    """The model that `reference` names. Of each name the newest version comes first in `models`."""
    return next(iter(named(models, reference)), None)


def choose_model(
    models: Sequence[Model], reference: str | None, *, default: str | None, job_type: str
) -> Model:
    """The model of a job's first step, enabled and able to do it.

    Raises `ModelUnavailable`, or `InvalidInput` when it could be several or cannot do it.
    """
    if reference is not None:
        model = find_model(models, reference)
        missing = "model_id: no such model; GET /v1/models lists what there is"
    elif default is not None:
        model = find_model(models, default)
        missing = "the default model (DF_DEFAULT_MODEL) is not installed"
    else:
        return _only_model(models, job_type)
    if model is None:
        raise ModelUnavailable(missing)
    _check_usable(model, job_type)
    return model


def _only_model(models: Sequence[Model], job_type: str) -> Model:
    usable = [model for model in models if model.enabled and job_type in model.capabilities]
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
    return usable[0]


def _check_usable(model: Model, job_type: str) -> None:
    if not model.enabled:
        raise ModelUnavailable(
            f"model {model.label} is disabled by the operator; "
            "`GET /v1/models` shows which are not",
            model_id=str(model.id),
        )
    if job_type not in model.capabilities:
        raise InvalidInput(
            f"model_id: {model.label} cannot {job_type}; "
            f"it can: {', '.join(model.capabilities) or 'nothing'}",
            field="model_id",
            capabilities=list(model.capabilities),
        )
