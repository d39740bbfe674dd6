"""The report on rounds of a suite finds what differed, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import rounds

PASSED, FAILED = (
    '<testcase classname="t" name="{}" time="{}"/>',
    ('<testcase classname="t" name="{}" time="{}"><failure message="x"/></testcase>'),
)


def written(folder: Path, *files: list[tuple[str, str, float]]) -> list[str]:
    names = []
    for number, cases in enumerate(files, 1):
        file = folder / f"hostile-{number}.xml"
        body = "".join(form.format(name, seconds) for form, name, seconds in cases)
        file.write_text(f"<testsuites><testsuite>{body}</testsuite></testsuites>")
        names.append(str(file))
    return names


def test_rounds_that_were_alike_have_nothing_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = [(PASSED, "a", 1.0), (PASSED, "b", 2.0)]
    assert rounds.main(["2", *written(tmp_path, alike, alike)]) == 0
    assert capsys.readouterr().out == "2 rounds, 2 tests: 0 differed between rounds\n"


def test_a_test_that_failed_once_is_named_with_its_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [(PASSED, "a", 1.0), (PASSED, "b", 2.0)]
    bad = [(FAILED, "a", 1.0), (PASSED, "b", 9.0)]
    assert rounds.main(["3", *written(tmp_path, good, bad, good)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "differs  t::a: failure in [2], passed in [1, 3]",
        "slow     t::b: 2.0 to 9.0 s",
        "3 rounds, 2 tests: 1 differed between rounds",
    ]


def test_a_test_that_is_missing_or_fails_always_is_not_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path, [(FAILED, "a", 1.0), (PASSED, "b", 1.0)], [(FAILED, "a", 1.0)])
    assert rounds.main(["2", *files]) == 1
    assert capsys.readouterr().out.splitlines()[:2] == [
        "fails    t::a: in every round",
        "differs  t::b: passed in [1], not in [2]",
    ]


def test_a_round_that_left_no_file_is_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rounds.main(["2", *written(tmp_path, [(PASSED, "a", 1.0)])]) == 1
    assert "1 of 2 rounds left a file" in capsys.readouterr().out
