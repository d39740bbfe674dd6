"""What the benchmark of isolation prints and draws follows from its turns."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from benchmarks.isolation.plot import draw
from benchmarks.isolation.results import (
    CELERY,
    RESIDENT,
    SPAWN,
    TEMPLATE,
    Creates,
    MeasuredRow,
    Results,
    Turn,
    read,
    write,
)
from benchmarks.isolation.table import render


def turns(**wall_s: float) -> dict[str, Turn]:
    return {side: Turn(wall_s=value, cpu_s=value / 2) for side, value in wall_s.items()}


@pytest.fixture
def results() -> Results:
    """Three rounds, of which the second met a busy machine."""
    row = MeasuredRow(title="backlog <of> 2", pictures=2, wanted="≤ 1.5")
    row.rounds.append(turns(resident=1, celery=1.5, template=2, spawn=20))
    row.rounds.append(turns(resident=10, celery=11, template=15))
    row.rounds.append(turns(resident=1, celery=1.2, template=1.4))
    facts = dict.fromkeys(("date", "cores", "processor", "python", "torch"), "?")
    return Results(
        machine=facts,
        rows=[row],
        idle_s=[{RESIDENT: 0.3, CELERY: 0.4, TEMPLATE: 0.5, SPAWN: 1.0}],
        waiting_mib={RESIDENT: 300.0, CELERY: 130.0, TEMPLATE: 7.0, SPAWN: 219.0},
        creates=[Creates(clients=1, ours=60.0, bare=100.0)],
    )


def test_a_ratio_is_to_the_resident_turn_of_the_same_round(results: Results) -> None:
    (row,) = results.rows
    assert (row.ratio(TEMPLATE), row.seconds(TEMPLATE)) == (1.5, 1.0)
    assert row.cpu_ratio(CELERY) == pytest.approx(1.2)


def test_a_side_may_miss_rounds(results: Results) -> None:
    (row,) = results.rows
    assert (row.ratio(SPAWN), row.seconds(SPAWN)) == (20.0, 10.0)


def test_the_table_has_every_row_with_as_many_cells_as_its_head(results: Results) -> None:
    first, second = (
        [line.count("|") for line in part.splitlines()]
        for part in render(results).strip().split("\n\n")[1:]
    )
    assert first == [7] * 7
    assert second == [6] * 3


def test_figures_that_were_written_are_read_again(results: Results, tmp_path: Path) -> None:
    write(tmp_path / "results.json", results)
    assert read(tmp_path / "results.json") == results


def test_the_plot_is_well_formed_and_names_every_row(results: Results) -> None:
    drawn = ElementTree.fromstring(draw(results))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "backlog <of> 2" in texts
