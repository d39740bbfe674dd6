"""Processes that know secrets hide their memory, and what they start inherits none of it.

Whether a process is hidden only it can tell, so each asks the kernel itself (PR_GET_DUMPABLE). That
a hidden one cannot be read is shown with a worker in `tests/integration/supervisor/test_worker.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAY = "ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)"  # PR_GET_DUMPABLE
HIDDEN = {
    "api": (
        "import api.server, runpy\n"
        f"api.server.serve = lambda settings: print({SAY}) or 0\n"
        "runpy.run_module('api', run_name='__main__')"
    ),
    "one of several api processes": (
        "from api import processes\n"
        "from shared.settings import Settings\n"
        "processes.create_app = lambda settings: print({SAY})\n"
        "processes.child_app(Settings())"
    ).replace("{SAY}", SAY),
    "worker": (
        "from supervisor import worker\n"
        f"def stop(): print({SAY}); raise SystemExit\n"
        "worker.check_kernel = stop\n"
        "worker.main()"
    ),
    "up": (
        "from pathlib import Path\n"
        "from cli.stack import infrastructure\n"
        "from cli.state_dir import StateDir\n"
        "with infrastructure.manage_processes(StateDir(Path('home')), print):\n"
        f"    print({SAY})"
    ),
}


@pytest.mark.parametrize("process", HIDDEN)
def test_a_process_that_knows_secrets_is_hidden(process: str, tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("DF_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DF_DATABASE_URL": "postgresql://df:secret@127.0.0.1:1/x",
        "DF_REDIS_URL": "redis://127.0.0.1:1/0",
        "DF_S3_ENDPOINT": "http://127.0.0.1:1",
        "DF_S3_ACCESS_KEY": "a-key",
        "DF_S3_SECRET_KEY": "a-secret",
    }
    ran = subprocess.run(
        [sys.executable, "-c", f"import ctypes, os\n{HIDDEN[process]}"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.split()[:1] == ["0"], ran.stderr
