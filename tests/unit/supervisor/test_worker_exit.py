"""The end of the worker's process, when `main` has returned: at once, whatever process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

SCRIPT = """
import multiprocessing, runpy, sys, time
from supervisor import worker

def main():
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    child.start()  # stands for a runner that hangs in the driver, where no signal reaches it
    print(child.pid)  # not flushed
    sys.stderr.write("the last words")
    return 3

if __name__ == "__main__":
    worker.main = main
    runpy.run_module("supervisor", run_name="__main__")
"""


def test_a_worker_does_not_wait_for_a_child_that_does_not_die(tmp_path: Path) -> None:
    script, out_path, err_path = (tmp_path / name for name in ("script.py", "out", "err"))
    script.write_text(SCRIPT)
    # Files, since a pipe would be the child's as well.
    with out_path.open("wb") as out, err_path.open("wb") as err:
        worker = subprocess.Popen(
            [sys.executable, str(script)],
            env={"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        assert worker.wait(30) == 3
        os.kill(int(out_path.read_text()), signal.SIGKILL)  # it lives, and is known
        assert err_path.read_text() == "the last words"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
