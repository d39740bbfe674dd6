"""Dead letters: what was given up, and another try of it."""

import logging
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from api import limits
from api.context import Context, Ctx
from api.middleware.auth import User, is_admin
from api.openapi import examples
from api.openapi.errors import NO_SUCH_LETTER, REPLAY, documented
from api.openapi.responses import answers
from api.schemas import responses, serializers
from api.schemas.ids import no_such_letter, parse_id
from api.schemas.requests import DeadLettersQuery
from shared.db import dead_letters, deliveries, jobs
from shared.db.create_job import Created
from shared.db.engine import Connection
from shared.dispatch.dead_letters import DeadMessage, DeadMessages
from shared.errors import InfraUnavailable, NotFound
from shared.states import DeliveryState
from shared.threads import run_in_thread

log = logging.getLogger(__name__)
router = APIRouter(tags=["workers"])

LetterId = Annotated[str, Path(description="a dead letter's id")]


@router.get(
    "/v1/dead-letters",
    operation_id="list_dead_letters",
    summary="Jobs, webhooks and messages that were given up",
    responses=answers("The latest.", examples.DEAD_LETTERS) | documented(),
)
async def list_dead_letters(
    query: Annotated[DeadLettersQuery, Query()], context: Ctx, user: User
) -> responses.DeadLetters:
    """The caller's own; those of all users for a key of `DF_ADMIN_KEYS`, or without keys."""
    sees_all = is_admin(user, context.settings)
    whose, limit = None if sees_all else user, query.limit

    async def work(connection: Connection) -> list[responses.DeadLetter]:
        dead = await dead_letters.page(connection, limit=limit, user=whose)
        unsent = await deliveries.page(connection, DeliveryState.DEAD, limit=limit, user=whose)
        return [
            *(serializers.dead_job(each, user) for each in dead),
            *(serializers.dead_webhook(each, user) for each in unsent),
        ]

    letters = await context.database.transaction(work)
    messages = await _messages(context) if sees_all else None
    return responses.DeadLetters(
        dead_letters=[*letters, *map(serializers.dead_message, (messages or [])[:limit])],
        messages_shown=messages is not None,
    )


@router.post(
    "/v1/dead-letters/{letter_id}/replay",
    operation_id="replay_dead_letter",
    status_code=202,
    summary="Try it once more",
    responses=answers("It is on its way.", examples.REPLAYED, status=202)
    | documented(NO_SUCH_LETTER, *REPLAY),
)
async def replay_dead_letter(letter_id: LetterId, context: Ctx, user: User) -> responses.Replayed:
    """A job: a new one from the same request, for the same user, with the same checkpoint and
    preset; the dead one stays. A webhook: it is sent again, with its id, for another day. A message
    cannot be read, so there is nothing to replay."""
    whose = None if is_admin(user, context.settings) else user
    if (job_id := parse_id(letter_id)) is not None:
        created = await _replay_job(context, job_id, whose)
        return responses.Replayed(id=letter_id, job_id=str(created.id))
    try:
        job_id, seq = deliveries.parse_id(letter_id)
    except NotFound:
        raise no_such_letter() from None
    await context.database.transaction(deliveries.replay, job_id, seq, user=whose)
    return responses.Replayed(id=letter_id, job_id=str(job_id))


async def _replay_job(context: Context, job_id: UUID, whose: str | None) -> Created:
    """Raises as `dead_letters.replay`, and `RateLimited`: a user's own replay is a create of it."""

    async def work(connection: Connection) -> Created:
        if whose is not None and limits.has_quota(context.settings, whose):
            await jobs.lock_user(connection, whose)
            await limits.enforce_quota(connection, whose, context.settings)
        return await dead_letters.replay(connection, job_id, user=whose)

    created = await context.database.transaction(work)
    if (step := created.first_step) is not None:
        context.metrics.jobs_accepted.labels(created.type).inc()
        context.notifier.notify(step.id, step.queue)
    return created


async def _messages(context: Context) -> list[DeadMessage] | None:
    """The broker's list; None where it does not answer, which hides no other dead letter."""
    redis_url = context.settings.redis_url.get_secret_value()

    def read() -> list[DeadMessage]:
        messages = DeadMessages(redis_url)
        try:
            return messages.all()
        finally:
            messages.close()

    try:
        return await run_in_thread(read)
    except (InfraUnavailable, OSError) as error:  # no thread left
        log.warning("unreadable messages are not shown: %s", error)
        return None
