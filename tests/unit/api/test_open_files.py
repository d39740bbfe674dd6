"""In a process of its own: a hard limit that was lowered does not rise again."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
from api.server import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1300))
print(raise_file_limit({streams}))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def outcome(streams: int) -> list[str]:
    program = PROGRAM.format(streams=streams)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_soft_limit_is_raised_to_what_the_streams_need() -> None:
    assert outcome(1000) == ["None", "1300"]


def test_more_streams_than_files_are_named_with_both_numbers() -> None:
    line, _ = outcome(2000)
    assert "DF_MAX_STREAMS=2000 needs 2256 open files, and the limit is 1300" in line
