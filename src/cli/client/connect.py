"""Where a command finds the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import config

if TYPE_CHECKING:  # at run time httpx costs a tenth of a second
    from cli.client.http import Client


def connect() -> Client:
    """A client of the API at DF_API_BASE, or of the stack that runs on our DF_HOME."""
    from cli.client.http import Client

    environ = config.environ()
    return Client(config.api_base(environ), config.api_key(environ))
