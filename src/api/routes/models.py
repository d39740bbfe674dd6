"""The registered models, and what each accepts."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.admission.models import find_model
from api.context import Ctx
from api.middleware.auth import User
from api.openapi import examples
from api.openapi.errors import NO_SUCH_MODEL, documented
from api.openapi.responses import answers, create_link
from api.schemas import responses, serializers
from api.schemas.ids import no_such_model
from shared.db import models, workers
from shared.db.engine import Connection

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models",
    operation_id="list_models",
    summary="List models",
    responses=answers("Every model.", examples.MODELS, links=create_link("/models/0/id"))
    | documented(),
)
async def list_models(context: Ctx, _: User) -> responses.Models:
    """Also those that are disabled, or on no live worker; of each name all versions."""

    async def work(connection: Connection) -> responses.Models:
        live = await workers.live_workers(connection)
        return serializers.models(await models.list_models(connection), live)

    return await context.database.transaction(work)


@router.get(
    "/v1/models/{model_id}",
    operation_id="get_model",
    summary="One model, with the JSON Schema of its parameters",
    responses=answers("The model.", examples.ONE_MODEL, links=create_link("/id"))
    | documented(NO_SUCH_MODEL),
)
async def get_model(
    model_id: Annotated[str, Path(description="id, name (its newest version), or name@version")],
    context: Ctx,
    _: User,
) -> responses.ModelOut:
    """`parameters_schema` says what a request with this model may contain, and its defaults."""

    async def work(connection: Connection) -> responses.ModelOut:
        model = find_model(await models.list_models(connection), model_id)
        if model is None:
            raise no_such_model()
        return serializers.model(model, await workers.live_workers(connection))

    return await context.database.transaction(work)
