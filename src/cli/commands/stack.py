"""`dreamforge up`, and one part each: `api`, `worker`, `migrate`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from cli import environment

if TYPE_CHECKING:
    from cli.stack.whole import Stack

_TICK_S = 0.2


def up() -> None:
    """Run everything in the foreground, with its data in DF_HOME; Ctrl-C stops it."""
    from cli.console import say
    from cli.stack import interrupts
    from cli.stack.whole import whole

    environ = environment.effective()
    with interrupts.catching():
        with whole(environment.home(environ), environ, say) as stack:
            _show(stack)
            try:
                while True:
                    stack.keeper.tick()
                    time.sleep(_TICK_S)
            except interrupts.Interrupted:
                say("stopping; Ctrl-C again kills at once")
        say("stopped")


def api() -> None:
    """Run the API alone, against the DF_* settings."""
    _become("api")


def worker() -> None:
    """Run the worker alone, against the DF_* settings."""
    _become("supervisor")


def migrate() -> None:
    """Bring the schema of DF_DATABASE_URL to this release."""
    from cli.console import say
    from cli.failures import Failure
    from shared.db.migrate import upgrade

    url = environment.effective().get("DF_DATABASE_URL")
    if not url:
        raise Failure("DF_DATABASE_URL is not set", hint="`dreamforge up` migrates by itself")
    upgrade(url)
    say("the schema is up to date")


def _become(module: str) -> None:
    # The same process, so that a service manager signals the service itself. -P: a folder of that
    # name in the current directory is not our package.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module])  # noqa: S606 - ourselves


def _show(stack: Stack) -> None:
    from cli.console import say
    from cli.tables import table

    table(("", "address", ""), [(row.title, row.where, row.note) for row in stack.addresses])
    if not stack.model.trained:
        say(
            "the model is untrained and draws noise: `dreamforge model import` registers a real one"
        )
    say("Ctrl-C stops everything")
