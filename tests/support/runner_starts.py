"""For suites that must hold however a runner is started."""

import pytest
from tests.support import harness


@pytest.fixture(autouse=True, params=["spawn", "template"])
def runner_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test of the module once for each way."""
    start = str(request.param)
    monkeypatch.setitem(harness.SETTINGS, "runner_start", start)
    return start
