"""Inputs: send a picture that jobs may start from, look at it, delete it."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response

from api.context import Context, Ctx
from api.middleware.auth import User
from api.openapi import examples
from api.openapi.errors import INPUT_IN_USE, NO_SUCH_INPUT, UPLOAD, documented
from api.openapi.responses import Responses, answers, input_links
from api.schemas import responses, serializers
from api.schemas.ids import no_such_input, parse_id
from api.uploads.picture_head import FIELD
from api.uploads.receive import receive
from shared.db import inputs
from shared.db.inputs import Input
from shared.errors import InfraUnavailable

router = APIRouter(tags=["inputs"])

PATH = "/v1/inputs"
_LOCATION = {
    "Location": {
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
        "description": "the input's address",
    }
}
_GONE: Responses = {204: {"description": "It is gone."}}
_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    FIELD: {
                        "type": "string",
                        "contentMediaType": "application/octet-stream",
                        "description": "a PNG, JPEG or WebP",
                    }
                },
                "required": [FIELD],
                "additionalProperties": False,
            }
        }
    },
}


async def _input_id(
    input_id: Annotated[
        str, Path(description="the input's id", json_schema_extra={"format": "uuid"})
    ],
) -> UUID:
    """Raises `NotFound`: a text that is no id is not the id of an input."""
    if (parsed := parse_id(input_id)) is None:
        raise no_such_input()
    return parsed


InputId = Annotated[UUID, Depends(_input_id)]


@router.post(
    PATH,
    operation_id="create_input",
    status_code=201,
    summary="Send a picture",
    responses=answers("Stored.", examples.INPUT, status=201, links=input_links(), headers=_LOCATION)
    | answers(
        "You sent the same bytes before: the input of then.",
        examples.INPUT,
        model=responses.InputPage,
        headers=_LOCATION,
    )
    | documented(*UPLOAD),
    openapi_extra={"requestBody": _FORM},
)
async def create_input(
    request: Request, response: Response, context: Ctx, user: User
) -> responses.InputPage:
    """A form with the field `file`. Only the head of the file is read here; a job that cannot
    decode its pixels fails and names it. Jobs name the input by its id until `expires_at`, and each
    job puts that off."""
    with context.streams.place(user):  # each holds some megabytes for as long as it takes
        received = await receive(
            request.stream(),
            request.headers.get("content-type"),
            user=user,
            max_bytes=context.settings.max_input_bytes,
            database=context.database,
            store=context.store,
        )
    if not received.created:
        response.status_code = 200
    response.headers["Location"] = f"{context.settings.root_path}{PATH}/{received.picture.id}"
    return _answer(context, received.picture)


@router.get(
    "/v1/inputs/{input_id}",
    operation_id="get_input",
    summary="What is known of a picture",
    responses=answers("The input.", examples.INPUT) | documented(NO_SUCH_INPUT),
)
async def get_input(input_id: InputId, context: Ctx, user: User) -> responses.InputPage:
    """Its sides are those with the orientation applied that the file asks for."""
    row = await context.database.transaction(inputs.get, input_id, user=user)
    if row is None:
        raise no_such_input()
    return _answer(context, row)


@router.delete(
    "/v1/inputs/{input_id}",
    operation_id="delete_input",
    status_code=204,
    summary="Delete a picture now",
    responses=_GONE | documented(NO_SUCH_INPUT, INPUT_IN_USE),
)
async def delete_input(input_id: InputId, context: Ctx, user: User) -> None:
    """Refused while a job that has not ended starts from it. What was made from it stays."""
    deleted = await context.database.transaction(inputs.delete_input, input_id, user=user)
    if deleted is None:
        raise no_such_input()
    try:
        await context.store.delete(deleted.s3_key)
    except InfraUnavailable:  # else the same request again would find nothing to delete
        await context.database.transaction(inputs.insert, deleted)
        raise


def _answer(context: Context, row: Input) -> responses.InputPage:
    expires_at = row.used_at + timedelta(seconds=context.settings.retain_inputs_s)
    return responses.InputPage(input=serializers.input(row, expires_at))
