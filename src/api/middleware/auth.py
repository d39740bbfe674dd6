"""The user of a request, by API key (`DF_API_KEYS`); without keys all are one user.

The request middleware checks before it reads a body or looks for a route. So every address is
closed unless it is named here, and a request without a key makes us parse nothing.
"""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import Scope

from shared.auth import authenticate, is_loopback
from shared.settings import Settings

DEFAULT_USER = "default"
SCHEME = "ApiKey"  # its name in the OpenAPI document
# Probes need no key, nor does a reader of the documentation. The page asks its user for one.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
_FILES_OF_THE_PAGE = "/page/"


class Authenticator:
    """Finds a request's user by its headers."""

    def __init__(self, settings: Settings) -> None:
        self._keys = settings.api_keys
        # On a loopback address Prometheus runs on our own machine.
        self._open = _OPEN | ({"/metrics"} if is_loopback(settings.api_host) else frozenset())

    def check(self, scope: Scope, headers: Headers) -> None:
        """Write the user into the scope's state. Raises `Unauthorized` when there is none."""
        if not self._keys:
            scope["state"]["user"] = DEFAULT_USER
        elif scope["path"] not in self._open and not scope["path"].startswith(_FILES_OF_THE_PAGE):
            scope["state"]["user"] = authenticate(headers.getlist("authorization"), self._keys)


# For the OpenAPI document only: the middleware has checked the key before a route runs.
_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name=SCHEME,
    description="One of the keys of `DF_API_KEYS`. An API without keys listens on a loopback "
    "address only, and ignores the header.",
)


async def current_user(request: Request, _: Annotated[object, Depends(_BEARER)]) -> str:
    """The caller's name, which is `jobs.user` and part of every artifact's key."""
    user: str = request.state.user
    return user


User = Annotated[str, Depends(current_user)]


def is_admin(user: str, settings: Settings) -> bool:
    """Whether the user sees what belongs to all. Without keys the one user is the operator."""
    return not settings.api_keys or user in settings.admin_keys
