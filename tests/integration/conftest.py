"""Real parts for the integration tests: one PostgreSQL, one broker, one object store a session.

They are the embedded ones, started through the same code that `dreamforge up` uses.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from migrations.upgrade import upgrade
from tests.support.database import empty_tables
from tests.support.infrastructure import Infrastructure, infrastructure


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starting the parts takes a while on a busy machine; the first test that needs them pays."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))


_CELL = re.compile(r"test_crash_matrix\.py::.*\[(?P<point>.+) - (?P<victim>.+)\]$")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The crash matrix as a table: seconds from the arming of a gate to the checker's last word."""
    cells: dict[tuple[str, str], str] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when == "call" and (cell := _CELL.search(report.nodeid)):
                shown = f"{report.duration:.1f}" if outcome == "passed" else "FAILED"
                cells[cell["point"], cell["victim"]] = shown
    if not cells:
        return
    points = list(dict.fromkeys(point for point, _ in cells))
    victims = list(dict.fromkeys(victim for _, victim in cells))
    terminalreporter.section("crash matrix, seconds per cell")
    terminalreporter.write_line(_row("", victims))
    for point in points:
        terminalreporter.write_line(_row(point, [cells.get((point, v), "") for v in victims]))


def _row(title: str, columns: list[str]) -> str:
    return f"{title:26}" + "".join(f"{column:>15}" for column in columns)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Infrastructure]:
    """The running parts. A test that stops one must start it again."""
    home: Path = tmp_path_factory.mktemp("home")
    # Settings of whoever runs the tests must not lead them to other people's servers.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    with infrastructure(home, clean) as running:
        yield running


@pytest.fixture(scope="session")
def migrated_url(stack: Infrastructure) -> str:
    url = stack.environment["DF_DATABASE_URL"]
    upgrade(stack.services["DF_DATABASE_URL"], admin_url=url)
    return url


@pytest.fixture
def database_url(migrated_url: str) -> str:
    """A migrated and empty database."""
    empty_tables(migrated_url)
    return migrated_url


@pytest.fixture
def stack_environment(stack: Infrastructure, database_url: str) -> dict[str, str]:
    """`DF_*` of the running parts, for a process that a test starts: as no superuser."""
    return dict(stack.services)
