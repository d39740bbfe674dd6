"""A minute of `make soak`: see `tests.support.soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.soak import soaking

from cli.stack.embedded import Infrastructure


@pytest.mark.timeout(300)
def test_jobs_end_well_and_once_while_somebody_kills_at_random(
    stack: Infrastructure, database_url: str, tmp_path: Path
) -> None:
    with soaking(stack, database_url, tmp_path, jobs=50, pause_s=0.5, seed=7) as soak:
        report = soak.run(at_most_s=30)
    assert report.findings == [], str(report)
    assert report.ended == {"succeeded": 50}, str(report)
    assert len(report.kills) >= 5, str(report)
