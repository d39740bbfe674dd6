"""What a process does that a template has just forked."""

import os
import select
import subprocess
import sys

ENDS_WITHIN_S = 60.0

# As a template forks: the process between ends, and this one is not the worker that is waited for.
WITHOUT_A_WORKER = """
import os
from runner.template import forking

forking._PARENT_ENDS_WITHIN_S = 120.0
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while os.getppid() == os.getsid(0):
            pass
        forking._wait_for_parent(os.getsid(0) + (1 << 22))
    os._exit(0)
os.wait()
"""


def test_a_fork_whose_worker_has_ended_ends_at_once() -> None:
    reader, writer = os.pipe()
    try:
        try:
            subprocess.run([sys.executable, "-c", WITHOUT_A_WORKER], pass_fds=[writer], check=True)
        finally:
            os.close(writer)
        # The fork has the other end too, as long as it lives.
        assert select.select([reader], [], [], ENDS_WITHIN_S)[0]
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
