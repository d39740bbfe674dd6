"""A worker, `python -m tests.support.prying_worker`, whose standbys spy on it and leave a daemon.

It is the real one. `TMPDIR` names the folder in which a standby writes down how far it came. Nobody
here has the capabilities with which root could read any process, hidden or not, so that root can
test this too. Import-light, since spawn imports this again in every runner.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

_PR_CAPBSET_DROP = 24  # linux/prctl.h
# linux/capability.h: CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON
_ALL_SEEING = (19, 21, 38)
_AGAIN = "--like-a-user"


def pry(connection: Connection, parent_pid: int) -> None:
    """Read the worker's environment, fork twice, then stand by."""
    from tests.support.runners import FOREVER_S
    from tests.support.supervisor_link import SupervisorLink

    from shared.linux.child import exit_now, isolate_process

    isolate_process(parent_pid)
    folder = Path(os.environ["TMPDIR"])
    try:
        secret = Path(f"/proc/{parent_pid}/environ").read_bytes()
        (folder / "read").write_text(f"{len(secret)} bytes")
    except PermissionError:
        (folder / "read").write_text("refused")
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        connection.close()
        (folder / "daemon.new").write_text(str(os.getpid()))
        (folder / "daemon.new").rename(folder / "daemon")
        time.sleep(FOREVER_S)
    os.wait()
    link = SupervisorLink(connection)
    link.ready()
    link.until_go()
    exit_now(0)


def main() -> int:
    from unittest.mock import patch

    from runner import entry
    from supervisor import worker

    with patch.object(entry, "main", pry):
        return worker.main()


if __name__ == "__main__":
    if _AGAIN not in sys.argv:
        for capability in _ALL_SEEING:  # a user that is not root has none of them to drop
            ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        module = [sys.executable, "-m", "tests.support.prying_worker", _AGAIN]
        os.execv(sys.executable, module)
    raise SystemExit(main())
