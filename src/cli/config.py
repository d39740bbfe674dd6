"""The settings that the command line itself reads."""

import os
from collections.abc import Mapping
from pathlib import Path

from cli.state_dir import DEFAULT, ENVIRONMENT, StateDir, reachable
from shared.environment import read_env_file, without_blanks
from shared.secrets import SECRETS_DIR, secrets_in


def effective() -> dict[str, str]:
    """Our environment over the `DF_*` lines of `.env` over the secrets, as a service reads them."""
    secrets, dotenv = secrets_in(SECRETS_DIR), _ours(read_env_file())
    others = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    return {**others, **without_blanks(secrets), **dotenv, **_ours(os.environ)}


def _ours(variables: Mapping[str, str | None]) -> dict[str, str]:
    """The settings among them, without blank ones."""
    named = {name: text for name, text in variables.items() if name.startswith("DF_") and text}
    return without_blanks(named)


def environ() -> dict[str, str]:
    """`effective`, completed by the settings of the stack that runs on our DF_HOME."""
    own = effective()
    folder = home(own)
    return {**(folder.read(ENVIRONMENT) if folder.holder() else {}), **own}


def home(environ: Mapping[str, str]) -> StateDir:
    return StateDir(Path(environ.get("DF_HOME") or DEFAULT))


def api_base(environ: Mapping[str, str]) -> str:
    """Where the API is: DF_API_BASE, else DF_API_HOST and DF_API_PORT, else the defaults."""
    host = reachable(environ.get("DF_API_HOST") or "127.0.0.1")
    port = environ.get("DF_API_PORT") or "8001"
    return (environ.get("DF_API_BASE") or f"http://{host}:{port}").rstrip("/")


def api_key(environ: Mapping[str, str]) -> str | None:
    """The key for the API, from DF_API_KEY. The API knows the hashes of its keys."""
    return environ.get("DF_API_KEY") or None
