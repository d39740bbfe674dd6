"""OpenAI's image routes, over the same jobs as all others."""

from contextlib import ExitStack
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.admission.body import SingleParseRoute
from api.admission.caller import caller_of
from api.admission.create import create, find_earlier
from api.admission.default_steps import default_steps
from api.admission.edit_models import edits
from api.admission.plan import Caller
from api.context import Context, Ctx
from api.dialect import documents
from api.dialect.answers import Completed
from api.dialect.call import Call
from api.dialect.edits import Named, named
from api.dialect.form import read_form
from api.dialect.request import GenerateImages, in_their_words, job_of, needs_steps, of_pictures
from api.middleware import tracing
from api.middleware.auth import User
from api.routes.jobs import Key
from shared.db.create_job import Created
from shared.errors import InvalidInput, ModelUnavailable

router = APIRouter(tags=["images"], route_class=SingleParseRoute)

OnDisconnect = Annotated[
    Literal["cancel"] | None,
    Query(description="what becomes of the job if you leave; without it, it goes on"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What every call has beside its body."""

    request: Request
    context: Context
    user: str
    key: str | None
    on_disconnect: Literal["cancel"] | None


async def _asked(
    request: Request,
    context: Ctx,
    user: User,
    idempotency_key: Key = None,
    on_disconnect: OnDisconnect = None,
) -> Asked:
    return Asked(
        request=request,
        context=context,
        user=user,
        key=idempotency_key,
        on_disconnect=on_disconnect,
    )


AskedFor = Annotated[Asked, Depends(_asked)]


@router.post(
    "/v1/images/generations",
    operation_id="generate_images",
    summary="Generate pictures (OpenAI clients)",
    response_class=Response,
    responses=documents.answered("image_generation.completed"),
)
async def generate_images(body: GenerateImages, asked: AskedFor) -> Response:
    """Create a job, wait for its end, answer with its pictures.

    Send an `Idempotency-Key`: then a request that was cut can be repeated, and finds its job.
    """
    parsed = of_pictures(await asked.request.json())
    return await _serve(asked, body, parsed, "image_generation.completed")


@router.post(
    "/v1/images/edits",
    operation_id="edit_images",
    summary="Edit a picture (OpenAI clients)",
    response_class=Response,
    responses=documents.answered("image_edit.completed"),
    openapi_extra={"requestBody": documents.EDITS},
)
async def edit_images(asked: AskedFor) -> Response:
    """The same, from a picture: a form with files, or JSON that names inputs.

    With `mask` its transparent part is painted anew, without one all of it, by `strength`.
    """
    pictures, parsed = await _read(asked)
    edit = pictures.mask is None and await edits(asked.context, pictures.others.get("model"))
    try:
        body = GenerateImages.model_validate(pictures.fields(edits=edit))
    except ValidationError as error:
        raise RequestValidationError(
            [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        ) from None
    return await _serve(asked, body, parsed, "image_edit.completed")


async def _read(asked: Asked) -> tuple[Named, dict[str, Any]]:
    """A request's pictures, and what a repeated one must have in common with it."""
    request = asked.request
    if request.headers.get("content-type", "").startswith("application/json"):
        parsed = await _json(request)
        if not isinstance(parsed, dict):
            raise InvalidInput("the body must be a JSON object")
        return named(parsed), of_pictures(parsed)
    content_type = request.headers.get("content-type")
    with asked.context.streams.place(asked.user):  # each upload holds some megabytes
        form = await read_form(request.stream(), content_type, asked.context, asked.user)
    # The bytes count: an input may be deleted, and its next upload has another id.
    files = {name: [each.sha256 for each in rows] for name, rows in form.pictures.items()}
    return named(form.fields, form), of_pictures(form.fields) | {"files": files}


async def _json(request: Request) -> Any:
    """The body, read and refused as FastAPI does where a route declares one."""
    try:
        return await request.json()
    except JSONDecodeError as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}]
        ) from None
    except (ValueError, RecursionError) as error:
        raise HTTPException(400) from error


async def _serve(
    asked: Asked, body: GenerateImages, parsed: dict[str, Any], completed: Completed
) -> Response:
    request, context, user = asked.request, asked.context, asked.user
    caller = caller_of(request, user, asked.key, parsed, context.settings)
    with ExitStack() as held:
        held.enter_context(context.streams.place(user))  # a refusal later would leave a job
        try:
            created = await _create(context, body, caller)
        except (InvalidInput, ModelUnavailable) as refused:
            raise in_their_words(refused) from None
        tracing.set_job(request, created)
        headers = {"X-Job-Id": str(created.id)}
        if created.replayed:
            headers["Idempotent-Replayed"] = "true"
        call = Call(
            context=context,
            request=request,
            user=user,
            body=body,
            completed=completed,
            job_id=created.id,
            keyed=asked.key is not None,
            cancels=asked.on_disconnect == "cancel",
            headers=headers,
        )
        return call.stream(held) if body.stream else await call.answer(held)


async def _create(context: Context, body: GenerateImages, caller: Caller) -> Created:
    job = job_of(body, None)
    if needs_steps(body):
        try:
            steps = await default_steps(context, body.model, job.capability)
        except (InvalidInput, ModelUnavailable):
            # A repeated request gets its picture, whatever has become of the model.
            if (earlier := await find_earlier(context, caller)) is not None:
                return earlier
            raise
        job = job_of(body, steps)
    return await create(context, job, caller)
