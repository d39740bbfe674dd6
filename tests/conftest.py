"""What every test has.

The garbage collector is off while the tests are imported, and what they left is frozen afterwards:
a million objects that live to the end are then never walked again.
"""

import gc
from collections.abc import Generator

import pytest

gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a report hold what an odd message put into a log: xdist sends reports as UTF-8."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    return report


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
