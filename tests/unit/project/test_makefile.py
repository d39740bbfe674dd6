"""Targets of the Makefile name tests that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("target", ["test-gpu", "hostile-loop", "crash-matrix", "check-migrations"])
def test_a_target_runs_tests_that_exist(target: str) -> None:
    """`--dry-run` prints the commands and runs none; `-o` takes the environment as it is."""
    command = ["make", "--dry-run", "-o", ".venv/.ready", target]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"(tests/[\w/]+(?:\.py)?)(?:::(\w+))?", printed)
    assert named
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test


def test_another_python_has_an_environment_beside_this_one() -> None:
    """No command of it uses `.venv`, and git and ruff pass over the folder."""
    command = ["make", "--dry-run", "PYTHON=python3.13", "VENV=.venv-not-made", "test"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'PYTHON="python3.13" VENV=".venv-not-made" scripts/setup' in printed
    assert ".venv-not-made/bin/python -m pytest" in printed
    assert not re.search(r"\.venv(?!-not-made)", printed)
    ignored = ["git", "check-ignore", "--quiet", ".venv-not-made/bin/python"]
    assert subprocess.run(ignored, cwd=ROOT).returncode == 0
