"""The first code of a runner, and of a template: become harmless, then import the heavy part.

The supervisor imports this file to name the target of a *spawned* process, so it must
stay light: the standard library only, torch only after the process has made itself killable.

A test that needs a misbehaving runner passes its own function as the target instead, and calls
`isolate_process` itself if it wants to.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection

from shared.linux import child
from shared.linux.sandbox import sandbox_of

Entry = Callable[[Connection, int], None]


def main(connection: Connection, parent_pid: int) -> None:
    """Run one step over `connection`, then end the process; never returns."""
    code = 1
    try:
        child.isolate_process(parent_pid)
        child.refuse_privileges()
        child.bound_resources()
        if (sandbox := sandbox_of(os.environ)) is not None:
            sandbox.enter()
        # Not at the top: this import is the four seconds of torch that the supervisor must not pay.
        code = import_module("runner.session").serve(connection.fileno())
    except BaseException:
        # The traceback belongs to the operator: it goes to stderr, never into a frame.
        sys.excepthook(*sys.exc_info())
    finally:
        child.exit_now(code)


def template(
    connection: Connection,
    parent_pid: int,
    *,
    runner: Entry = main,
    imports: str = "runner.template.imports",
) -> None:
    """Import what a runner imports, then fork runners as the worker orders; never returns.

    `runner` is their entry, and the module `imports` is all that this process imports for them.
    """
    code = 1
    try:
        child.isolate_process(parent_pid)
        child.refuse_privileges()
        child.bound_resources()
        if (sandbox := sandbox_of(os.environ)) is not None:
            sandbox.enter(forks=True)
        fd = os.dup(connection.fileno())
        connection.close()
        serve = import_module("runner.template.serve").serve
        code = serve(fd, parent_pid, runner, imports)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        child.exit_now(code)
