"""How a connection to PostgreSQL begins: what we send, and what the address says itself.

libpq reads the address, so it may say all that libpq knows: several servers, certificates, a search
path. What it says in its query wins over what we would send.

Time-outs are set by a statement on each new connection and not with the start-up parameter
`options`: PgBouncer refuses that parameter, or ignores it in silence.

A pooler before the server may give each transaction another session. What is set for a session is
then lost, or meets another client. A pooler invents the process id that it shows at the start, so
a connection whose server process has another id is a pooler's: there each transaction sets its
time-outs for itself, and no statement is prepared (`shared.db.engine`).
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg

# For SQLAlchemy: the driver, without an address. The functions below connect.
DRIVER = "postgresql+psycopg://"
# A statement that takes this long is a bug or a sick server; either way it endangers the lease of
# the worker that waits for it.
SESSION_MS: Mapping[str, int] = {
    "statement_timeout": 15_000,
    "idle_in_transaction_session_timeout": 15_000,
    "lock_timeout": 10_000,
}
_LINK: Mapping[str, int] = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|\S)*)")


def connector(url: str, application: str) -> Callable[[], psycopg.Connection[Any]]:
    """What opens a connection to the address; `application` is the name that the server shows."""
    return partial(psycopg.connect, url, **_parameters(url, application))


def async_connector(
    url: str, application: str
) -> Callable[[], Awaitable[psycopg.AsyncConnection[Any]]]:
    """The same for an event loop."""
    return partial(psycopg.AsyncConnection.connect, url, **_parameters(url, application))


def session_statement(url: str, backend_pid: int) -> str:
    """Set our time-outs, unless the server process is not the one that was shown at the start.

    The first column says whether it is.
    """
    own = f"pg_backend_pid() = {backend_pid}"
    calls = [f"CASE WHEN {own} THEN {call} END" for call in _set_time_outs(url, is_local=False)]
    return f"SELECT {', '.join([own, *calls])}"


def transaction_statement(url: str) -> str:
    """Set our time-outs for the transaction that is open."""
    return f"SELECT {', '.join(['1', *_set_time_outs(url, is_local=True)])}"


def options_of(url: str) -> dict[str, str]:
    """The settings of the server that the address gives in its `options`."""
    options = " ".join(parse_qs(urlsplit(url).query).get("options", []))
    return {
        name.replace("-", "_").lower(): re.sub(r"\\(.)", r"\1", value)
        for name, value in _OPTION.findall(options)
    }


def _parameters(url: str, application: str) -> dict[str, Any]:
    """What the driver gets beside the address, as far as the address does not say it."""
    said = parse_qs(urlsplit(url).query)
    ours: dict[str, Any] = {"application_name": application, **_LINK}
    return {name: value for name, value in ours.items() if name not in said}


def _set_time_outs(url: str, *, is_local: bool) -> list[str]:
    return [
        f"set_config('{name}', '{value}', {str(is_local).lower()})"
        for name, value in SESSION_MS.items()
        if name not in options_of(url)
    ]
