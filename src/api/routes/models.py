"""The registry: which models there are, and what each accepts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api import responses, views
from api.auth import User
from api.context import Ctx
from api.model_choice import find_model
from api.routes.errors import documented
from shared.db import models, presence
from shared.db.connection import Connection
from shared.errors import NotFound

router = APIRouter(tags=["models"])


@router.get("/v1/models", operation_id="list_models", summary="List models", responses=documented())
async def list_models(context: Ctx, _: User) -> responses.Models:
    async def work(connection: Connection) -> responses.Models:
        live = await presence.live_workers(connection)
        found = await models.list_models(connection)
        return responses.Models(models=[views.model(model, live) for model in found])

    return await context.database.transaction(work)


@router.get(
    "/v1/models/{model_id}",
    operation_id="get_model",
    summary="One model, with the JSON Schema of its parameters",
    responses=documented(NotFound),
)
async def get_model(
    model_id: Annotated[str, Path(description="id, name (its newest version), or name@version")],
    context: Ctx,
    _: User,
) -> responses.ModelOut:
    async def work(connection: Connection) -> responses.ModelOut:
        found = None if "\0" in model_id else await find_model(connection, model_id)
        if found is None:
            raise NotFound("there is no such model; GET /v1/models lists what there is")
        return views.model(found, await presence.live_workers(connection))

    return await context.database.transaction(work)
