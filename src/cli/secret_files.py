"""The secrets of one installation in containers: random, made together, one file each.

The same folder serves `compose.yaml` (files that become /run/secrets/NAME) and `deploy/k3s`
(files of a generator). Names that begin with `df_` are settings; the rest is for the three servers,
and `api_key` for people: no service gets that one.
"""

import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from cli.errors import Failure

KEY = "api_key"
# Names of the servers in both stacks; a worker on another host needs addresses of its own.
POSTGRES, REDIS = "postgres:5432", "redis:6379"


def contents(token: Callable[[], str] = lambda: secrets.token_hex(32)) -> dict[str, str]:
    """Every file's text by name. `token` makes one credential of letters and digits."""
    postgres, service, redis, s3_key, s3_secret, key = (token() for _ in range(6))
    return {
        # Made by `migrate`, with the other one: it owns nothing (migrations/roles.py).
        "df_database_url": f"postgresql://dreamforge_service:{service}@{POSTGRES}/dreamforge",
        "df_admin_database_url": f"postgresql://dreamforge:{postgres}@{POSTGRES}/dreamforge",
        "df_redis_url": f"redis://:{redis}@{REDIS}/0",
        "df_s3_access_key": s3_key[:20],
        "df_s3_secret_key": s3_secret,
        "df_api_keys": f"default:{hashlib.sha256(key.encode()).hexdigest()}",
        "postgres_password": postgres,
        "redis_conf": f"requirepass {redis}",
        KEY: key,
    }


def write(folder: Path, files: dict[str, str]) -> None:
    """Write them all, or none where one is there already. Raises `Failure`, `OSError`.

    A password that is replaced here would still be the old one in PostgreSQL. Only the owner may
    enter the folder (0700). The files in it are 0644, because a container's user is another one
    and reads the file that is mounted into it; `api_key` is mounted nowhere and 0600.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if present := sorted(files.keys() & {path.name for path in folder.iterdir()}):
        raise Failure(
            f"{folder} has secrets already ({', '.join(present)}): nothing was changed",
            hint="PostgreSQL and the store know the old ones; name another folder for other ones",
        )
    folder.chmod(0o700)
    for name, text in files.items():
        mode = 0o600 if name == KEY else 0o644
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "w") as file:
            os.fchmod(fd, mode)  # also where the umask says less
            file.write(text)  # no line end: some readers would take it for a part of the secret
