"""The page about the lifecycle says what the table says."""

from __future__ import annotations

import re
from dataclasses import replace

from shared.states import TERMINAL, StepState
from supervisor.lifecycle.diagram import PAGE, VERDICT, diagram, page, rows
from supervisor.lifecycle.table import TABLE

ARROW = re.compile(r"^    (\S+) --> (\S+?)(?:: (.+))?$")


def arrows(text: str) -> list[tuple[str, str, str]]:
    matches = [ARROW.match(line) for line in text.splitlines()]
    return [(m[1], m[2], m[3] or "") for m in matches if m]


def test_the_page_is_what_the_table_generates() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m supervisor.lifecycle.diagram"


def test_a_changed_row_changes_the_page() -> None:
    for at, row in enumerate(TABLE):
        for changed in (replace(row, effects=()), replace(row, changes=())):
            if changed != row:
                assert page((*TABLE[:at], changed, *TABLE[at + 1 :])) != page()
        assert page((*TABLE[:at], *TABLE[at + 1 :])) != page()


def test_every_move_is_an_arrow_with_its_event() -> None:
    drawn = {(source, target): label for source, target, label in arrows(diagram())}
    for row in TABLE:
        target = row.target or VERDICT
        if target != row.source:
            assert row.kind in drawn[row.source, target].split(", ")


def test_no_arrow_is_drawn_twice() -> None:
    ends = [(source, target) for source, target, _ in arrows(diagram())]
    assert len(set(ends)) == len(ends)


def test_every_state_is_reached_and_only_the_terminal_ones_end() -> None:
    drawn = arrows(diagram())
    assert {target for _, target, _ in drawn} >= set(StepState) - {StepState.PENDING}
    assert {source for source, target, _ in drawn if target == "[*]"} == TERMINAL


def test_the_list_has_every_row_in_full() -> None:
    _, _, *lines = rows().splitlines()
    assert len(lines) == len(TABLE)
    for line, row in zip(lines, TABLE, strict=True):
        assert line.count("|") == 7, "no cell may break the table"
        assert all(effect in line for effect in row.effects)
        assert all(change.__name__ in line for change in row.changes)
