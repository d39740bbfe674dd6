"""`dreamforge mcp`: an MCP server over stdio, for agents."""

from importlib.util import find_spec

from cli.client.connect import connect
from cli.errors import USAGE, Failure


def mcp() -> None:
    """Serve an agent over stdio (MCP): generate, status, fetch. The agent starts this command."""
    if find_spec("mcp") is None:
        raise Failure(
            "this command needs the library of the Model Context Protocol",
            hint="pip install 'dreamforge[mcp]'",
            exit_code=USAGE,
        )
    from cli.client.mcp_server import build_server

    with connect() as client:
        build_server(client).run("stdio")
