"""The figures of one run as tables of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.isolation.results import CELERY, RESIDENT, SIDES, SPAWN, TEMPLATE, Results

TITLES = {
    RESIDENT: "resident",
    CELERY: "Celery worker",
    TEMPLATE: "this, by template",
    SPAWN: "this, by spawn",
}


def render(results: Results) -> str:
    """The machine, the table, and the CPU time beside it."""
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    load = ", ".join(f"{each:.1f}" for each in results.load)
    return "\n".join(
        [
            f"{facts}; load before and after: {load}; took {results.took_s / 60:.1f} minutes",
            "",
            *_table("seconds a picture (÷ resident)", _main_rows(results)),
            "",
            *_table("CPU seconds a picture (÷ resident)", _cpu_rows(results), wanted=False),
            "",
        ]
    )


def _table(title: str, rows: Sequence[Sequence[str]], *, wanted: bool = True) -> list[str]:
    head = [title, *TITLES.values()] + ["wanted"] * wanted
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return [lines[0], "|---" * len(head) + "|", *lines[1:]]


def _main_rows(results: Results) -> list[list[str]]:
    timed = [[row.title, *_per_side(row.seconds, row.ratio), row.wanted] for row in results.rows]
    return [*timed, _idle_row(results), *_memory_rows(results), *_creates_rows(results)]


def _cpu_rows(results: Results) -> list[list[str]]:
    return [[row.title, *_per_side(row.cpu_seconds, row.cpu_ratio)] for row in results.rows]


def _per_side(value: Callable[[str], float], ratio: Callable[[str], float]) -> list[str]:
    others = [f"{value(side):.2f} ({ratio(side):.2f})" for side in SIDES[1:]]
    return [f"{value(RESIDENT):.2f}", *others]


def _idle_row(results: Results) -> list[str]:
    others = [
        f"{results.idle_ms(side):.0f} (+{results.idle_more_ms(side):.0f})" for side in SIDES[1:]
    ]
    title = "one on an idle worker, create to end, ms"
    return [title, f"{results.idle_ms(RESIDENT):.0f}", *others, "≤ +200"]


def _memory_rows(results: Results) -> list[list[str]]:
    waiting = [f"{results.waiting_mib[side]:.0f}" for side in SIDES]
    return [
        ["private memory of what waits, MiB", *waiting, "≤ 30"],
        ["memory of the templates beside it, MiB", "", "", f"{results.templates_mib:.0f}", "", ""],
    ]


def _creates_rows(results: Results) -> list[list[str]]:
    return [
        [
            f"creates a second, {each.clients} client{'s' * (each.clients > 1)}",
            f"{each.bare:.0f} (bare FastAPI)",
            "",
            f"{each.ours:.0f} ({each.ours / each.bare:.2f})",
            "",
            "≥ 0.60",
        ]
        for each in results.creates
    ]
