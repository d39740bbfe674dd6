"""What every test has."""

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a report hold what an odd message put into a log: xdist sends reports as UTF-8."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    return report


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
