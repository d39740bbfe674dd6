"""Break the table in every small way there is: some claim must notice.

Every mutant is the table with one change in one row. The claims are run against it in process,
`advance` with another table; the first red one is enough. A mutant that all claims accept is a row,
or a part of one, that no test holds: the failure names it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from tests.unit.supervisor import test_lifecycle_table, test_lifecycle_verdicts
from tests.unit.supervisor.test_lifecycle_table import Advance, Claim

from shared.states import StepState
from supervisor.lifecycle.machine import advance
from supervisor.lifecycle.step import IllegalEvent, Row
from supervisor.lifecycle.table import TABLE

CLAIMS = test_lifecycle_table.CLAIMS + test_lifecycle_verdicts.CLAIMS

Table = tuple[Row, ...]
Mutant = tuple[str, Table]  # what was done, and the table that came of it


def mutants(table: Table) -> Iterator[Mutant]:
    for at, row in enumerate(table):
        for what, rows in _variants(row):
            yield f"{_name(row)}: {what}", (*table[:at], *rows, *table[at + 1 :])


def _name(row: Row) -> str:
    guard = f" [{row.guard.__name__}]" if row.guard else ""
    return f"{row.source} + {row.kind}{guard}"


def _variants(row: Row) -> Iterator[tuple[str, Table]]:
    yield "removed", ()
    for target in (*StepState, None):
        if target is not row.target:
            yield f"to {target or 'verdict'}", (replace(row, target=target),)
    for at, effect in enumerate(row.effects):
        kept = row.effects[:at] + row.effects[at + 1 :]
        yield f"without {effect}", (replace(row, effects=kept),)
    for at, change in enumerate(row.changes):
        changes = row.changes[:at] + row.changes[at + 1 :]
        yield f"without {change.__name__}", (replace(row, changes=changes),)
    if row.guard:
        yield "without its guard", (replace(row, guard=None),)
    if len(row.effects) > 1:
        yield "effects in reverse", (replace(row, effects=row.effects[::-1]),)


def survivors(broken: Iterable[Mutant], claims: Iterable[Claim]) -> list[str]:
    """Names of the mutants that every claim accepts."""
    claims = list(claims)
    alive = []
    for name, mutant in broken:
        killer = next((c for c in claims if not _holds(c, partial(advance, table=mutant))), None)
        if killer is None:
            alive.append(name)
        elif killer is not claims[0]:
            # Neighbouring mutants mostly die of the same claim: asking it first saves most calls.
            claims.remove(killer)
            claims.insert(0, killer)
    return alive


def _holds(claim: Claim, mutated: Advance) -> bool:
    try:
        claim(mutated)
    # `pytest.raises` fails with an exception of its own, which is no AssertionError.
    except (AssertionError, IllegalEvent, pytest.fail.Exception):
        return False
    return True


def test_every_mutant_of_the_table_is_noticed() -> None:
    alive = survivors(mutants(TABLE), CLAIMS)
    assert not alive, "no claim notices:\n" + "\n".join(alive)


def test_the_claims_hold_for_the_table_as_it_is() -> None:
    """Otherwise every mutant would die, of a claim that is wrong anyway."""
    assert [claim.__name__ for claim in CLAIMS if not _holds(claim, advance)] == []


def test_without_claims_every_mutant_survives() -> None:
    assert survivors(mutants(TABLE), []) == [name for name, _ in mutants(TABLE)]


def test_without_the_claim_about_it_a_mutant_survives() -> None:
    about = test_lifecycle_table.test_a_slot_is_not_quarantined_twice
    rest = [
        claim
        for claim in CLAIMS
        if claim not in (about, test_lifecycle_table.test_what_the_table_lists_is_legal)
    ]
    row = "reclaiming + reclaim deadline: "
    broken = [(name, table) for name, table in mutants(TABLE) if name.startswith(row)]
    assert f"{row}without arm publish deadline" in survivors(broken, rest)
    assert survivors(broken, [*rest, about]) == []
