"""In a process of its own: a hard limit that was lowered does not rise again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from api.server import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 1300))
print(raise_file_limit(1000))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(raise_file_limit(2000))
"""


@pytest.fixture(scope="module")
def lines() -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_soft_limit_is_raised_to_what_the_streams_need(lines: list[str]) -> None:
    assert lines[:2] == ["None", "1300"]


def test_more_streams_than_files_are_named_with_both_numbers(lines: list[str]) -> None:
    assert "DF_MAX_STREAMS=2000 needs 2256 open files, and the limit is 1300" in lines[2]
