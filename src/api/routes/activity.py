"""The last hour in spans of five minutes."""

from fastapi import APIRouter

from api.context import Ctx
from api.middleware.auth import User, is_admin
from api.openapi import examples
from api.openapi.errors import documented
from api.openapi.responses import answers
from api.schemas import responses, serializers
from shared.db.activity import last_hour

router = APIRouter(tags=["usage"])


@router.get(
    "/v1/activity",
    operation_id="get_activity",
    summary="The last hour: what ended, and how long it had waited",
    responses=answers("Up to now.", examples.ACTIVITY) | documented(),
)
async def get_activity(context: Ctx, user: User) -> responses.Activity:
    """Of the caller's jobs; of all users' for a key of `DF_ADMIN_KEYS`, or without keys. Jobs that
    were deleted since are not among them; `GET /v1/usage` counts these too, by day."""
    whose = None if is_admin(user, context.settings) else user
    spans, exact = await context.database.transaction(last_hour, user=whose)
    return serializers.activity(spans, exact)
