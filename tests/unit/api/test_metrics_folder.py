"""Folders that dead apis left are removed, and those of live ones are not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.metrics_folder import hold, metrics_folder

OTHER = """
import sys
from pathlib import Path
from api.metrics_folder import hold, metrics_folder

if len(sys.argv) > 1:
    assert hold(Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
else:
    with metrics_folder() as folder:
        print(folder, flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of this process and of others."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def other(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another api, or a process of one, until it is killed; and what it says."""
    command = [sys.executable, "-c", OTHER, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_what_a_killed_api_left_is_removed_by_the_next_one(place: Path) -> None:
    with other() as (process, folder):
        Path(folder, "counter_1.db").write_text("x")
        process.kill()
        process.wait(60)
    with metrics_folder() as mine:
        assert list(place.iterdir()) == [mine]
    assert list(place.iterdir()) == []


def test_the_folder_of_a_live_api_stays(place: Path) -> None:
    with other() as (_, folder), metrics_folder() as mine:
        assert set(place.iterdir()) == {Path(folder), mine}


def test_a_folder_stays_while_one_process_of_its_api_lives(place: Path) -> None:
    with other() as (parent, folder), other(folder) as (child, said):
        assert said == "held"
        parent.kill()
        parent.wait(60)
        with metrics_folder():
            assert Path(folder).exists()
        child.kill()
        child.wait(60)
        with metrics_folder():
            assert not Path(folder).exists()


def test_what_is_no_folder_of_ours_stays(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").write_text("x")
    (place / "dreamforge-metrics-link").symlink_to(elsewhere)
    (place / "dreamforge-metrics-file").write_text("x")
    (place / "dreamforge-api-old").mkdir()
    before = set(place.iterdir())
    with metrics_folder():
        pass
    assert set(place.iterdir()) == before
    assert (elsewhere / "file").exists()


def test_a_folder_that_was_removed_before_its_lock_is_made_anew(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, []

    def mkdtemp(prefix: str) -> str:
        made.append(make(prefix=prefix))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with metrics_folder() as mine:
        assert list(place.iterdir()) == [mine] == [Path(made[1])]
    assert not hold(mine)
