"""Which process the kernel kills first when the host has no memory left.

A template that holds a model only keeps something warm, so it comes before every step. The worker
sets the score: a template may write nowhere, and what it forks inherits its score.
"""

import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_MOST = "1000"


def raise_to_most(pid: int) -> None:
    """Have this process killed before any other."""
    _set(pid, lambda: _MOST)


def restore(pid: int) -> None:
    """Have it count like this worker."""
    _set(pid, lambda: Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))


def _set(pid: int, score: Callable[[], str]) -> None:
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text(score(), encoding="ascii")
    except OSError as error:  # it has ended, or the host allows it to nobody: all count alike there
        log.warning("oom_score_adj of process %d: %s", pid, error.strerror)
