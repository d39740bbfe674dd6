"""What a killed postmaster leaves in its data folder, and why the next one may refuse to start.

postgres reads `postmaster.pid` and asks two things. Is that pid alive? `kill(pid, 0)` says yes for
a zombie too, and after `kill -9` of our own process the zombie belongs to pid 1, which in many
containers reaps late or never. And is its shared memory attached? That one must stay: a backend
that outlives its postmaster by a moment still writes to the files.
So the file is not removed. Once the pid is gone or a zombie, it is replaced by our own: postgres
passes over the pid of its parent, and still looks at the shared memory. We wait for that first.
"""

import os
import time
from pathlib import Path

from cli.processes import os_process

_DETACH_TIMEOUT_S = 10.0
_PID_LINE, _SHARED_MEMORY_LINE = 0, 6


def replace_stale(data: Path) -> None:
    """Replace the pid of a killed postmaster, so that the next one starts on this data folder."""
    pidfile = data / "postmaster.pid"
    try:
        lines = pidfile.read_text(encoding="utf-8").split("\n")
        pid = int(lines[_PID_LINE])
    except (FileNotFoundError, ValueError):
        return
    if os_process.find_living(pid) is not None:
        return  # postgres refuses to start and says why
    _wait_detached(lines)
    with pidfile.open("r+", encoding="utf-8") as file:  # in place: it keeps its owner
        file.write("\n".join([str(os.getpid()), *lines[1:]]))
        file.truncate()


def _wait_detached(lines: list[str]) -> None:
    fields = lines[_SHARED_MEMORY_LINE].split() if len(lines) > _SHARED_MEMORY_LINE else []
    deadline = time.monotonic() + _DETACH_TIMEOUT_S
    while len(fields) == 2 and _attached(fields[1]) and time.monotonic() < deadline:
        time.sleep(os_process.POLL_S)


def _attached(segment: str) -> bool:
    """Whether any process has the System V segment mapped (`nattch`)."""
    for line in Path("/proc/sysvipc/shm").read_text(encoding="utf-8").splitlines()[1:]:
        fields = line.split()
        if fields[1] == segment:
            return int(fields[6]) > 0
    return False
