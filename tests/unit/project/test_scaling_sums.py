"""The sums of `docs/scaling.md` are those of the script, and its simulation agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.scaling.simulate import FLEETS, Costs, Fleet, row_of_sums, simulate, sums

PAGE = (Path(__file__).parents[3] / "docs/scaling.md").read_text(encoding="utf-8")
COSTS = Costs()


@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: f"{fleet.gpus} on {fleet.cores}")
def test_the_page_has_the_sums_of_the_script(fleet: Fleet) -> None:
    assert row_of_sums(fleet, COSTS) in PAGE.splitlines()


def test_the_simulation_agrees_with_the_sums_while_there_is_room() -> None:
    fleet = Fleet(gpus=20, cores=4)
    wanted, seen = sums(fleet, COSTS), simulate(fleet, COSTS, seconds=60.0)
    assert seen.jobs_s == pytest.approx(wanted.jobs_s, rel=0.05)
    assert seen.database_busy == pytest.approx(wanted.database_cores / fleet.cores, rel=0.1)
    assert seen.gpus_busy > 0.95


def test_gpus_wait_where_the_database_is_full() -> None:
    fleet = Fleet(gpus=400, cores=1)
    assert sums(fleet, COSTS).database_cores > fleet.cores
    seen = simulate(fleet, COSTS, seconds=30.0)
    assert seen.database_busy > 0.99
    assert seen.jobs_s < 0.7 * sums(fleet, COSTS).jobs_s
