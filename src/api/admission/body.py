"""The body of a create, parsed once: its model and its fingerprint come from the same JSON."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.admission.duplicate_keys import refuse_duplicates


class SingleParseRoute(APIRoute):
    """A route whose request parses its JSON once, for FastAPI and for the route."""

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
