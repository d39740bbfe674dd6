"""Nothing grows unnoticed: routes, tables, dependencies and flags against `docs/budget.toml`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.support.routes import api_routes, worker_routes

from shared.db.tables import metadata
from shared.settings import Settings

ROOT = Path(__file__).parents[3]
BUDGET: dict[str, Any] = tomllib.loads((ROOT / "docs/budget.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DECISIONS = {
    path.name[:4]: path.read_text(encoding="utf-8")
    for path in (ROOT / "docs/adr").glob("[0-9][0-9][0-9][0-9]-*.md")
}
SECTIONS = ("Context", "Decision", "What we chose not to build", "Cost", "Removal plan")
ONE_PAGE_WORDS = 600


def dependencies() -> set[str]:
    project = PROJECT["project"]
    extras = [found for name, found in project["optional-dependencies"].items() if name != "dev"]
    lines = [line for part in (project["dependencies"], *extras) for line in part]
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0] for line in lines}


ACTUAL: dict[str, tuple[dict[str, Any], set[str]]] = {
    "routes of the api": (BUDGET["routes"]["api"], api_routes()),
    "routes of the worker": (BUDGET["routes"]["worker"], worker_routes()),
    "tables": (BUDGET["tables"], set(metadata.tables)),
    "dependencies": (BUDGET["dependencies"], dependencies()),
}


@pytest.mark.parametrize("kind", ACTUAL)
def test_what_there_is_is_what_the_budget_lists(kind: str) -> None:
    listed, actual = ACTUAL[kind]
    assert {*listed["base"], *listed["added"]} == actual, f"{kind}: see docs/budget.toml"


@pytest.mark.parametrize("kind", ACTUAL)
def test_nothing_is_listed_twice(kind: str) -> None:
    listed, _ = ACTUAL[kind]
    names = [*listed["base"], *listed["added"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ACTUAL)
def test_every_addition_is_named_by_its_decision(kind: str) -> None:
    listed, _ = ACTUAL[kind]
    for name, number in listed["added"].items():
        assert number in DECISIONS, f"{name}: there is no docs/adr/{number}-*.md"
        assert f"`{name}`" in DECISIONS[number], f"docs/adr/{number}-*.md does not name `{name}`"


def test_every_boolean_setting_is_a_switch_with_a_reason_or_a_flag_that_expires() -> None:
    booleans = {
        f"DF_{name.upper()}"
        for name, field in Settings.model_fields.items()
        if field.annotation is bool
    }
    assert {*BUDGET["switches"], *BUDGET["flags"]} == booleans
    assert not BUDGET["switches"].keys() & BUDGET["flags"].keys()
    assert all(BUDGET["switches"].values())


def test_no_flag_outlives_its_expiry() -> None:
    now = version(PROJECT["project"]["version"])
    for name, flag in BUDGET["flags"].items():
        assert flag["adr"] in DECISIONS and f"`{name}`" in DECISIONS[flag["adr"]]
        assert flag["removal"], f"{name} does not say what its removal takes"
        expires = version(flag["expires"])
        assert now < expires, f"{name} expired with {flag['expires']}: {flag['removal']}"
        assert expires <= (now[0], now[1] + 2, 0), f"{name} lives for more than two releases"


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("number", sorted(DECISIONS))
def test_a_decision_is_one_page_with_every_section(number: str) -> None:
    text = DECISIONS[number]
    found = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert tuple(found) == SECTIONS
    assert len(text.split()) <= ONE_PAGE_WORDS


def test_the_index_lists_every_decision() -> None:
    index = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\d{4})-[a-z0-9-]+\.md\)", index))
    assert linked == DECISIONS.keys()
