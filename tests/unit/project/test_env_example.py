"""`.env.example` is a page about the settings, and this test keeps it true."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from shared.settings import Settings
from shared.settings_removed import REMOVED

ROOT = Path(__file__).parents[3]
LINES = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
SETTING = re.compile(r"^# (DF_[A-Z0-9_]+)=(.*)$")
EXAMPLES = {found[1]: found[2] for line in LINES if (found := SETTING.match(line))}
# Read by the command line alone, before there is a database or a store to have settings of.
COMMAND_LINE = {"DF_HOME", "DF_API_BASE", "DF_API_KEY", "DF_ADMIN_DATABASE_URL"}


def variable(field: str) -> str:
    return f"DF_{field.upper()}"


def shown(name: str) -> str | None:
    """The value on the page; an empty one stands for none."""
    return EXAMPLES[name] or None


def test_every_setting_is_there_in_the_order_of_the_class_and_nothing_else() -> None:
    settings = [name for name in EXAMPLES if name not in COMMAND_LINE]
    assert settings == [variable(field) for field in Settings.model_fields]
    assert EXAMPLES.keys() >= COMMAND_LINE


def test_no_setting_is_there_twice() -> None:
    assert len([line for line in LINES if SETTING.match(line)]) == len(EXAMPLES)


def test_an_untouched_copy_changes_nothing() -> None:
    assert [line for line in LINES if line and not line.startswith("#")] == []


def test_the_page_as_a_whole_is_a_valid_configuration() -> None:
    Settings.model_validate({field: shown(variable(field)) for field in Settings.model_fields})


@pytest.mark.parametrize(
    "field", [name for name, field in Settings.model_fields.items() if not field.is_required()]
)
def test_the_value_shown_is_the_default(field: str) -> None:
    given = {name: shown(variable(name)) for name in Settings.model_fields}
    read = Settings.model_validate(given)
    assert getattr(read, field) == Settings.model_fields[field].get_default()


def test_a_line_says_what_each_setting_is() -> None:
    """The line above is prose, or another setting that it speaks of as well."""
    for before, line in pairwise(LINES):
        if SETTING.match(line):
            assert before.startswith("# "), f"{line} needs a comment above it"


def test_the_command_line_knows_no_setting_that_is_not_there() -> None:
    sources = (ROOT / "src").rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(re.findall(r"\bDF_[A-Z0-9_]*[A-Z0-9]\b", text))
    assert named - {"DF_S3"} - REMOVED.keys() <= EXAMPLES.keys()
    assert REMOVED.keys().isdisjoint(EXAMPLES)
