"""Creates a second, against bare FastAPI with one INSERT, in one run: `rows()`.

Both servers run all the time, with their default logs, on one PostgreSQL. Rounds of the two take
turns, so that a noisy minute meets both; the figures are medians of the rounds. Read the ratios.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.edge.servers import Server, fill_database, parts, start_api, start_bare

CLIENTS = (1, 16)
ROUNDS, REQUESTS = 7, 150
WARM_UP = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One number of clients: requests a second, and CPU milliseconds of the server per request."""

    clients: int
    creates_s: float
    bare_s: float
    create_cpu_ms: float
    bare_cpu_ms: float

    @property
    def ratio(self) -> float:
        return self.creates_s / self.bare_s


def rows(environment: Mapping[str, str]) -> list[Row]:
    """Measure on these parts (`DF_DATABASE_URL`, …), whose schema is made here if need be.

    Registers the demo model and a live worker that has it, and leaves the jobs that it creates.
    """
    url = environment["DF_DATABASE_URL"]
    fill_database(url)
    with ExitStack() as servers:
        ours = servers.enter_context(start_api(environment))
        bare = servers.enter_context(start_bare(url))
        for server in (ours, bare):
            server.measure(clients=4, requests=WARM_UP)
        return [_row(clients, ours, bare) for clients in CLIENTS]


def _row(clients: int, ours: Server, bare: Server) -> Row:
    readings = [
        (ours.measure(clients, REQUESTS), bare.measure(clients, REQUESTS)) for _ in range(ROUNDS)
    ]
    first, second = (
        [
            statistics.median(values)
            for values in zip(*(pair[side] for pair in readings), strict=True)
        ]
        for side in (0, 1)
    )
    return Row(
        clients=clients,
        creates_s=first[0],
        create_cpu_ms=first[1],
        bare_s=second[0],
        bare_cpu_ms=second[1],
    )


def table(measured: list[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = [
        "| clients | creates a second | bare, one INSERT | ratio | CPU ms a create | bare |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.clients} | {row.creates_s:.0f} | {row.bare_s:.0f} | {row.ratio:.2f} "
        f"| {row.create_cpu_ms:.2f} | {row.bare_cpu_ms:.2f} |"
        for row in measured
    ]
    return "\n".join(lines)


def main() -> None:
    with parts() as environment:
        sys.stdout.write(table(rows(environment)) + "\n")


if __name__ == "__main__":
    main()
