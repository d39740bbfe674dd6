"""`dreamforge up`, and one part each: `api`, `worker`, `migrate`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from cli import backends, config
from cli.errors import Failure
from cli.processes import signals
from cli.terminal.output import print_note
from cli.terminal.tables import print_table

if TYPE_CHECKING:
    from cli.stack.stack import Stack

_TICK_S = 0.2


def up() -> None:
    """Run everything in the foreground, with its data in DF_HOME; Ctrl-C stops it."""
    from cli.stack.stack import run_stack

    environ = config.effective()
    with signals.handle():
        with run_stack(config.home(environ), environ, print_note) as stack:
            _show(stack)
            try:
                while True:
                    stack.manager.tick()
                    time.sleep(_TICK_S)
            except signals.Interrupt:
                print_note("stopping; Ctrl-C again kills at once")
        print_note("stopped")


def api() -> None:
    """Run the API alone, against the DF_* settings."""
    _exec_service("api")


def worker() -> None:
    """Run the worker alone, against the DF_* settings."""
    _exec_service("supervisor")


def migrate() -> None:
    """Bring the schema of DF_DATABASE_URL to this release.

    With DF_ADMIN_DATABASE_URL, a role that may make roles, the one of DF_DATABASE_URL is made, or
    made one that owns nothing.
    """
    from migrations.upgrade import upgrade

    environ = config.effective()
    if "DF_DATABASE_URL" not in environ:
        raise Failure("DF_DATABASE_URL is not set", hint="`dreamforge up` migrates by itself")
    upgrade(backends.database_url(environ), backends.admin_url(environ))
    print_note("the schema is up to date")


def _exec_service(module: str) -> None:
    # The same process, so that a service manager signals the service itself. -P: a folder of that
    # name in the current directory is not our package.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module])  # noqa: S606 - ourselves


def _show(stack: Stack) -> None:
    print_table(("", "address", ""), [(row.title, row.where, row.note) for row in stack.addresses])
    print_note("Ctrl-C stops everything")
