"""How a connection to PostgreSQL begins: what we send, and what the address says itself.

Time-outs are set by a statement on each new connection and not with the start-up parameter
`options`: PgBouncer refuses that parameter, or ignores it in silence. What the address says in its
query wins over what we would send, and its `options` reach the server as they are, so that a search
path or a time-out in an address means the same in every command and service.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

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


def connect_args(url: str, application: str) -> dict[str, Any]:
    """What the driver gets beside the address, as far as the address does not say it."""
    said = parse_qs(urlsplit(url).query)
    ours: dict[str, Any] = {"application_name": application, **_LINK}
    return {name: value for name, value in ours.items() if name not in said}


def session_statement(url: str) -> str | None:
    """The statement that sets our time-outs; None where the address sets all of them."""
    options = " ".join(parse_qs(urlsplit(url).query).get("options", []))
    calls = [
        f"set_config('{name}', '{value}', false)"
        for name, value in SESSION_MS.items()
        if name not in options
    ]
    return f"SELECT {', '.join(calls)}" if calls else None


def driver_url(url: str) -> str:
    """The address with the driver's name in it, as SQLAlchemy and Alembic want it."""
    scheme, rest = url.split("://", 1)
    return url if "+" in scheme else f"postgresql+psycopg://{rest}"
