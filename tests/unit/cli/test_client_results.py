"""File names from prompts, pictures that replace none, and failures as lines."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.client.results import check_folder, download, slug
from cli.errors import JOB_FAILED, UNREACHABLE, USAGE, Failure, Refusal
from cli.main import run
from shared import errors
from shared.errors import DreamForgeError


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red apple", "a-red-apple"),
        ("../../etc/passwd", "etc-passwd"),
        ("Ein Äpfel: rot & süß!", "ein-äpfel-rot-süß"),
        ("???", "picture"),
        ("x" * 500, "x" * 60),
        ("\U00010428" * 60, "\U00010428" * 25),
        ("\U00010428" + "猫" * 60, "\U00010428" + "猫" * 32),
        ("\ud800", "picture"),
    ],
)
def test_a_prompt_becomes_a_plain_file_name(prompt: str, name: str) -> None:
    assert slug(prompt) == name


class Store:
    """An API whose job has one picture of seed 7 with these bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def artifacts(self, job_id: str) -> Mapping[str, Any]:
        return {"artifacts": [{"item_index": 0, "seed": 7, "format": "png", "url": "u"}]}

    def save(self, url: str, path: Path) -> None:
        path.write_bytes(self.content)


def saved(content: bytes, folder: Path) -> str:
    store: Any = Store(content)
    (path,) = download(store, "job", "a red apple", folder)
    assert path.read_bytes() == content
    return path.name


def test_a_picture_replaces_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert saved(b"first", folder) == "a-red-apple-7.png"
    assert saved(b"second", folder) == "a-red-apple-7-2.png"
    assert saved(b"third", folder) == "a-red-apple-7-3.png"
    assert saved(b"second", folder) == "a-red-apple-7-2.png"
    assert (folder / "a-red-apple-7.png").read_bytes() == b"first"
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "link to a picture"])
def test_whatever_has_the_name_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    name, other = tmp_path / "a-red-apple-7.png", tmp_path / "other"
    if kind == "folder":
        name.mkdir()
    else:
        name.symlink_to(other)
    if kind == "link to a picture":
        other.write_bytes(b"other")
    assert saved(b"new", tmp_path) == "a-red-apple-7-2.png"
    assert not other.exists() or other.read_bytes() == b"other"
    assert name.is_dir() or name.is_symlink()


class FullDisk(Store):
    def save(self, url: str, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_picture_that_cannot_be_written_is_kept_and_its_job_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for store, folder in [(FullDisk(b""), tmp_path), (Store(b"x"), tmp_path / "file" / "out")]:
        with pytest.raises(Failure) as raised:
            download(store, "job-1", "a red apple", folder)  # type: ignore[arg-type]
        assert raised.value.exit_code == JOB_FAILED
        assert "dreamforge job artifacts job-1 --download" in raised.value.hint
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_no_picture_can_be_saved_to_is_refused_before_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "astray").symlink_to(tmp_path / "nothing")
    for folder in (file, file / "out", tmp_path / "astray"):
        for command in (["generate", "x", "--out"], ["job", "create", "x", "--download"]):
            assert run([*command, str(folder)]) == USAGE  # and not 3: no API was asked
    check_folder(tmp_path / "new" / "folder")
    check_folder(None)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(Failure, match="not ours to write"):
        check_folder(tmp_path / "new")


@pytest.mark.parametrize("prompt", ["\U00010428" * 60, "猫" * 60, "x" * 500, "é" * 500])
def test_the_longest_name_fits_every_disk(prompt: str) -> None:
    assert len(f"{slug(prompt)}-{2**53 - 1}-99.png".encode()) <= 143


def test_an_envelope_becomes_its_message_and_what_that_does_not_say() -> None:
    width = {"field": "width", "message": "must be a multiple of 8", "multipleOf": 8}
    count = {"field": "count", "message": "must be positive", "minimum": 1}
    refused = Refusal(
        {
            "code": "invalid_input",
            "message": "width: must be a multiple of 8 (and 1 more)",
            "details": {"errors": [width, count]},
            "correlation_id": "c",
        }
    )
    assert refused.message == (
        "width: must be a multiple of 8 (and 1 more)\n  count: must be positive"
    )
    assert "model get" in refused.hint
    assert refused.exit_code == USAGE


def test_other_details_are_a_line_each() -> None:
    refused = Refusal({"code": "conflict", "message": "used", "details": {"job_id": "j", "n": [1]}})
    assert refused.message == "used\n  job_id: j\n  n: 1"


def test_a_bug_of_ours_says_what_to_report_and_that_it_was_not_the_request() -> None:
    refused = Refusal({"code": "internal", "message": "wrong", "correlation_id": "c1"})
    assert refused.message == "wrong\n  correlation id: c1"
    assert "report" in refused.hint
    assert refused.exit_code == UNREACHABLE


def test_every_error_of_a_request_has_a_hint() -> None:
    # A wrong method is nothing that a command could send.
    declared = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {kind.code for kind in declared if issubclass(kind, DreamForgeError)}
    codes.remove("method_not_allowed")
    assert {code for code in codes if not Refusal({"code": code}).hint} == set()


def test_a_part_that_is_away_counts_as_unreachable() -> None:
    refused = Refusal({"code": "infra_unavailable", "message": "PostgreSQL cannot be reached"})
    assert refused.exit_code == UNREACHABLE
    assert "doctor" in refused.hint


def test_exit_codes_are_distinct() -> None:
    assert len({JOB_FAILED, USAGE, UNREACHABLE, 0}) == 4
    assert Failure("x").exit_code == USAGE
