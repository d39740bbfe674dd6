"""Where a command finds the API."""

from __future__ import annotations

from cli import config
from cli.client.http import Client


def connect() -> Client:
    """A client of the API at DF_API_BASE, or of the stack that runs on our DF_HOME."""
    environ = config.with_running_stack(config.effective())
    return Client(config.api_base(environ), config.api_key(environ))
