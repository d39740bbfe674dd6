"""The first code of a runner process: become harmless, then import the heavy part and serve.

The supervisor imports this file to name `main` as the target of a *spawned* process, so it must
stay light: the standard library only, torch only after the process has made itself killable.

A test that needs a misbehaving runner passes its own function as the target instead, and calls
`isolate_process` itself if it wants to.
"""

import sys
from importlib import import_module
from multiprocessing.connection import Connection

from shared.linux import child


def main(connection: Connection, parent_pid: int) -> None:
    """Run one step over `connection`, then end the process; never returns."""
    code = 1
    try:
        child.isolate_process(parent_pid)
        child.refuse_privileges()
        # Not at the top: this import is the four seconds of torch that the supervisor must not pay.
        code = import_module("runner.session").serve(connection.fileno())
    except BaseException:
        # The traceback belongs to the operator: it goes to stderr, never into a frame.
        sys.excepthook(*sys.exc_info())
    finally:
        child.exit_now(code)
