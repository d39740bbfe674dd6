"""What the caller used: jobs, pictures, seconds and memory, by day and model."""

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from api.context import Ctx
from api.middleware.auth import User
from api.openapi import examples
from api.openapi.errors import documented
from api.openapi.responses import answers
from api.schemas import pagination, responses, serializers
from api.schemas.requests import UsageQuery
from shared.db import usage
from shared.errors import InvalidInput

router = APIRouter(tags=["usage"])

DEFAULT_DAYS = 30


@router.get(
    "/v1/usage",
    operation_id="get_usage",
    summary="What a key used, by day and model, or by a tag",
    responses=answers("One page.", examples.USAGE) | documented(pagination.invalid_cursor()),
)
async def get_usage(
    query: Annotated[UsageQuery, Query()], context: Ctx, user: User
) -> responses.UsagePage:
    """Oldest day first; days are UTC. It is written when a step or a job ends, and outlives both.
    A key sees its own rows, and one of `DF_ADMIN_KEYS` those of all users. With `tag` there is a
    row for each value of it too, and jobs without it are in none."""
    since, until = _days(query)
    whose = query.user if user in context.settings.admin_keys else _own(query, user)
    rows = await context.database.transaction(
        usage.page,
        since=since,
        until=until,
        user=whose,
        model=query.model,
        tag=_tag(query, context.settings.usage_tags),
        after=None if query.cursor is None else pagination.decode_usage(query.cursor),
        limit=query.limit + 1,
    )
    shown = rows[: query.limit]
    return responses.UsagePage(
        usage=[serializers.usage(row) for row in shown],
        next_cursor=pagination.encode_usage(shown[-1]) if len(rows) > query.limit else None,
    )


def _own(query: UsageQuery, user: str) -> str:
    """The caller's own name. Raises `InvalidInput` for a request that names another user."""
    if query.user not in (None, user):
        raise InvalidInput(
            "user: only a key named in DF_ADMIN_KEYS sees the usage of other users; leave it out",
            field="user",
        )
    return user


def _tag(query: UsageQuery, counted: tuple[str, ...]) -> tuple[str, str | None] | None:
    """Key and value. Raises `InvalidInput` for a key by which nothing is counted."""
    if query.tag is None:
        return None
    key, equals, value = query.tag.partition("=")
    if key not in counted:
        raise InvalidInput(
            f"tag: usage is not counted by {key!r}; DF_USAGE_TAGS, which is the operator's, names: "
            f"{', '.join(counted) or 'none'}",
            field="tag",
            counted=list(counted),
        )
    return key, value if equals else None


def _days(query: UsageQuery) -> tuple[date, date]:
    """The first and the last day. Raises `InvalidInput` when they are the wrong way round."""
    until = query.until or datetime.now(UTC).date()
    since = query.since or date.fromordinal(max(1, until.toordinal() - DEFAULT_DAYS + 1))
    if since > until:
        raise InvalidInput(f"from: {since} is after the last day, {until}", field="from")
    return since, until
