"""The body of a create, read once: its model and its fingerprint come from one parse."""

import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute

from api.admission.duplicate_keys import refuse_duplicates
from api.admission.idempotency import fingerprint
from api.schemas.requests import CreateJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """What the client sent, checked, and the hash by which a repeat of it is known."""

    job: CreateJob
    fingerprint: str


class SingleParseRoute(APIRoute):
    """A route whose request parses its JSON once, for FastAPI and for our dependencies."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_once(request: Request) -> Response:
            return await handle(_SingleParseRequest(request.scope, request.receive))

        return handle_once


class _SingleParseRequest(Request):
    _parsed: Any = ...  # JSON has no value that is this one

    async def json(self) -> Any:
        """The body. Raises `InvalidInput` where a name of an object is there twice."""
        if self._parsed is ...:
            self._parsed = json.loads(await self.body(), object_pairs_hook=_object)
        return self._parsed


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    refuse_duplicates(name for name, _ in pairs)
    return dict(pairs)


async def _submission(body: CreateJob, request: Request) -> Submission:
    # Runs when FastAPI has parsed the body and found no fault in it.
    return Submission(job=body, fingerprint=fingerprint(await request.json()))


Submitted = Annotated[Submission, Depends(_submission)]
