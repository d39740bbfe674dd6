"""A minute of `make soak`: see `tests.support.soak`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.infrastructure import Infrastructure
from tests.support.soak import Report, soaking


def test_a_soak_is_good_only_if_every_job_succeeded() -> None:
    report = Report(seed=1, jobs=2, ended=Counter(succeeded=2))
    assert report.good
    assert not replace(report, ended=Counter(succeeded=1)).good
    assert not replace(report, ended=Counter(succeeded=1, failed=1)).good
    assert not replace(report, findings=["lost: a job"]).good


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_jobs_end_well_and_once_while_somebody_kills_at_random(
    stack: Infrastructure, database_url: str, tmp_path: Path
) -> None:
    with soaking(stack, database_url, tmp_path, jobs=50, pause_s=0.5, seed=7) as soak:
        report = soak.run(at_most_s=90)  # half a minute, unless the machine is busy
    assert report.good, str(report)
    assert len(report.kills) >= 5, str(report)
