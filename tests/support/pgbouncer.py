"""PgBouncer, the real one, before a PostgreSQL of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.support.relay import at, server_of
from tests.support.worker_process import DEADLINE_S, free_port

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
NOBODY = 65534

needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="PgBouncer is not installed (Debian: apt install pgbouncer)"
)


@contextmanager
def pgbouncer(*urls: str, mode: str, **settings: str) -> Iterator[str]:
    """PgBouncer before the server of `urls`, for their roles; the first URL through it.

    Few connections to the server are shared by all clients of a role, so that they meet.
    """
    assert PROGRAM is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dreamforge-pgbouncer-") as place:
        folder = Path(place)
        config = _configure(folder, port, urls, {"pool_mode": mode} | settings)
        user = []
        if os.geteuid() == 0:  # it refuses root
            os.chown(folder, NOBODY, NOBODY)
            user = ["-u", "nobody"]
        log = folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [PROGRAM, *user, str(config)], stdout=output, stderr=output, cwd="/"
            )
        try:
            url = at(urls[0], "127.0.0.1", port)
            _wait_ready(process, url, log)
            yield url
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def _configure(folder: Path, port: int, urls: tuple[str, ...], settings: dict[str, str]) -> Path:
    host, server_port = server_of(urls[0])
    roles = {(parts.username, parts.password) for parts in map(urlsplit, urls)}
    users = folder / "users.txt"
    users.write_text("".join(f'"{name}" "{password}"\n' for name, password in roles))
    usual = {
        "listen_addr": "127.0.0.1",
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": str(users),
        "default_pool_size": "3",
        "max_client_conn": "200",
    }
    lines = [f"{name} = {value}" for name, value in (usual | settings).items()]
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host={host} port={server_port}\n[pgbouncer]\n" + "\n".join(lines) + "\n"
    )
    for file in (users, config):
        file.chmod(0o644)
    return config


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        try:
            psycopg.connect(url, connect_timeout=3).close()
        except psycopg.OperationalError:
            time.sleep(0.02)
        else:
            return
