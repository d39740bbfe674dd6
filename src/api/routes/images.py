"""OpenAI's image routes, over the same jobs as all others."""

from contextlib import ExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from api.admission.body import SingleParseRoute
from api.admission.caller import caller_of
from api.admission.create import create
from api.admission.default_steps import default_steps
from api.context import Context, Ctx
from api.dialect import documents
from api.dialect.call import Call
from api.dialect.request import GenerateImages, in_their_words, job_of, needs_steps, of_pictures
from api.middleware import tracing
from api.middleware.auth import User
from api.routes.jobs import Key
from shared.errors import InvalidInput, ModelUnavailable

router = APIRouter(tags=["images"], route_class=SingleParseRoute)

OnDisconnect = Annotated[
    Literal["cancel"] | None,
    Query(description="what becomes of the job if you leave; without it, it goes on"),
]


@router.post(
    "/v1/images/generations",
    operation_id="generate_images",
    summary="Generate pictures (OpenAI clients)",
    response_class=Response,
    responses=documents.GENERATED,
)
async def generate_images(
    body: GenerateImages,
    request: Request,
    context: Ctx,
    user: User,
    idempotency_key: Key = None,
    on_disconnect: OnDisconnect = None,
) -> Response:
    """Create a job, wait for its end, answer with its pictures.

    Send an `Idempotency-Key`: then a request that was cut can be repeated, and finds its job.
    """
    job = job_of(body, await _steps(context, body))
    parsed = of_pictures(await request.json())
    caller = caller_of(request, user, idempotency_key, parsed, context.settings)
    with ExitStack() as held:
        held.enter_context(context.streams.place(user))  # a refusal later would leave a job
        try:
            created = await create(context, job, caller)
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
            job_id=created.id,
            keyed=idempotency_key is not None,
            cancels=on_disconnect == "cancel",
            headers=headers,
        )
        return call.stream(held) if body.stream else await call.answer(held)


async def _steps(context: Context, body: GenerateImages) -> int | None:
    """The model's own steps, where `quality` needs them."""
    if not needs_steps(body):
        return None
    try:
        return await default_steps(context, body.model)
    except (InvalidInput, ModelUnavailable) as refused:
        raise in_their_words(refused) from None
