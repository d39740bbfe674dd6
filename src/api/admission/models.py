"""Which model a request means: an id, a name, `name@version`, or none at all."""

from __future__ import annotations

from collections.abc import Sequence

from api.admission.upscalers import choose
from api.schemas.ids import parse_id
from api.schemas.requests import CreateJob
from shared.db import models
from shared.db.connection import Connection
from shared.db.models import Model
from shared.db.workers import Worker
from shared.errors import InvalidInput, ModelUnavailable


async def find_model(connection: Connection, reference: str) -> Model | None:
    """The model that `reference` names. A bare name means its newest version."""
    model_id = parse_id(reference)
    if model_id is not None:
        return await models.get_model(connection, model_id)
    name, at, version = reference.partition("@")
    found = await models.find_models(connection, name, version if at else None)
    return found[0] if found else None


async def choose_model(connection: Connection, reference: str | None, default: str | None) -> Model:
    """The model of a job. Raises `ModelUnavailable`, or `InvalidInput` when it could be several."""
    wanted = reference or default
    if wanted is None:
        return await _the_only_one(connection)
    found = await find_model(connection, wanted)
    if found is None:
        if reference is None:
            raise ModelUnavailable("the default model (DF_DEFAULT_MODEL) is not installed")
        raise ModelUnavailable("model_id: no such model; GET /v1/models lists what there is")
    return found


async def choose_upscaler(
    connection: Connection, body: CreateJob, live: Sequence[Worker]
) -> Model | None:
    """The model of the second step; None when there is no such step, or it needs none."""
    asked = None if body.chain is None else body.chain.upscale
    if asked is None:
        return None
    return choose(asked, await models.list_models(connection), live)


async def _the_only_one(connection: Connection) -> Model:
    usable = [
        model
        for model in await models.list_models(connection)
        if model.enabled and "generate" in model.capabilities
    ]
    if not usable:
        raise ModelUnavailable(
            "no model is installed; `dreamforge model import <folder>` registers one"
        )
    if len(usable) > 1:
        names = [f"{model.name}@{model.version}" for model in usable]
        raise InvalidInput(
            f"model_id: there are several models, name one of: {', '.join(names[:10])}",
            field="model_id",
            models=names,
        )
    return usable[0]
