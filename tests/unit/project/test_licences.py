"""`docs/licences.md` is what `make licences` would write, and it is in the wheel."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.release.licences import licence, page, rows
from tests.support.deployment import PROJECT

ROOT = Path(__file__).parents[3]


def test_the_page_is_the_one_that_make_licences_writes() -> None:
    written = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    assert written == page(), "run `make licences`"


def test_what_is_under_the_lgpl_is_named_above_the_table() -> None:
    beginning = page().partition("## All packages")[0]
    under_lgpl = {row.name for row in rows() if "LGPL" in row.licence}
    assert {"psycopg", "psycopg-binary"} <= under_lgpl
    assert all(f"- {name} " in beginning for name in under_lgpl)


def test_every_package_has_a_licence() -> None:
    assert [row.name for row in rows() if row.licence in {"", "UNKNOWN"}] == []


def test_a_package_that_names_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from email.message import Message

    monkeypatch.setattr("scripts.release.licences.metadata", lambda _name: Message())
    with pytest.raises(LookupError, match="names no licence"):
        licence("nameless")


def test_the_wheel_has_the_page() -> None:
    assert PROJECT["project"]["license-files"] == ["LICENSE", "docs/licences.md"]
