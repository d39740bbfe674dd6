"""What one PostgreSQL and one api carry for so many GPUs: sums, and a simulation that checks them.

`python benchmarks/scaling/simulate.py` needs nothing but Python and a minute. The costs are
measured figures of the other benchmarks here (README.md says which), the fleets are assumptions.
The simulation lets every slot claim, run and write its verdict; PostgreSQL is a server of a few
cores that serves one statement per core and lets the others wait. What the sums leave out, it
shows: how long a claim waits, and how much of the GPUs' time is lost by that.
"""

from __future__ import annotations

import heapq
import random
import sys
from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Measured on this project's machines of two cores; milliseconds are of CPU (README.md)."""

    claim_ms: float = 35.0  # with a million steps that wait
    step_ms: float = 170.0  # PostgreSQL, store and broker, for the rest of a step
    transactions: int = 20  # of a step, claim apart
    create_ms: float = 2.9  # api
    create_database_ms: float = 5.6
    events: int = 15  # rows of a job's log
    event_bytes: int = 400  # with its index
    job_bytes: int = 6_000  # rows of a job without its events, with their indexes
    worker_connections: int = 13  # at most
    api_connections: int = 10

    @property
    def transaction_ms(self) -> float:
        return self.step_ms / self.transactions


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """So many GPUs that are always busy, one step and one picture a job."""

    gpus: int
    step_s: float = 4.0  # SDXL, 1024x1024, thirty steps, on a card of 24 GB, about
    picture_bytes: int = 1_900_000  # benchmarks/pictures: 1024x1024, grained
    cores: int = 4  # PostgreSQL's


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What a fleet asks of the parts."""

    jobs_s: float
    api_processes: float
    database_cores: float
    connections: int
    events_day: float
    database_bytes_day: float
    store_bytes_s: float


def sums(fleet: Fleet, costs: Costs) -> Sums:
    jobs_s = fleet.gpus / fleet.step_s
    database_ms = costs.claim_ms + costs.step_ms + costs.create_database_ms
    api = jobs_s * costs.create_ms / 1000
    return Sums(
        jobs_s=jobs_s,
        api_processes=api,
        database_cores=jobs_s * database_ms / 1000,
        connections=fleet.gpus * costs.worker_connections
        + max(2, round(api / 0.7 + 0.5)) * costs.api_connections,
        events_day=jobs_s * costs.events * DAY_S,
        database_bytes_day=jobs_s * (costs.events * costs.event_bytes + costs.job_bytes) * DAY_S,
        store_bytes_s=jobs_s * fleet.picture_bytes,
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a simulated fleet did after it came into its stride."""

    jobs_s: float
    database_busy: float  # share of its cores' time
    claim_wait_ms: float  # median, with the claim itself
    claim_wait_p99_ms: float
    gpus_busy: float


class Server:
    """So many cores; a request waits for the first one that is free."""

    def __init__(self, cores: int) -> None:
        self.free_at = [0.0] * cores
        self.busy_s = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """When a request that arrives now has its answer. Requests arrive in the order of time."""
        start = max(now, heapq.heappop(self.free_at))
        heapq.heappush(self.free_at, start + seconds)
        self.busy_s += seconds
        return start + seconds


def simulate(fleet: Fleet, costs: Costs, *, seconds: float, seed: int = 1) -> Outcome:
    """Slots that never lack work: claim, run with its transactions spread over it, claim again."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    server = Server(fleet.cores)
    # (time, number, slot, what): a heap of everything that is to happen.
    number = 0
    coming: list[tuple[float, int, int, str]] = []

    def plan(at: float, slot: int, what: str) -> None:
        nonlocal number
        number += 1
        heapq.heappush(coming, (at, number, slot, what))

    for slot in range(fleet.gpus):
        plan(chance.uniform(0, fleet.step_s), slot, "claim")
    warm_s = seconds / 4
    waits: list[float] = []
    jobs, run_s, busy_before = 0, 0.0, 0.0
    measured = False
    while coming:
        now, _, slot, what = heapq.heappop(coming)
        if now > seconds:
            break
        if not measured and now > warm_s:
            measured, busy_before = True, server.busy_s
        if what == "write":
            server.serve(now, costs.transaction_ms / 1000)
            continue
        server.serve(now, costs.create_database_ms / 1000)  # the job that takes its place
        claimed = server.serve(now, costs.claim_ms / 1000)
        took = fleet.step_s * chance.uniform(0.7, 1.3)
        for _ in range(costs.transactions):
            plan(claimed + chance.uniform(0, took), slot, "write")
        plan(claimed + took, slot, "claim")
        if measured:
            waits.append(claimed - now)
            jobs, run_s = jobs + 1, run_s + took
    span = seconds - warm_s
    waits.sort()
    return Outcome(
        jobs_s=jobs / span,
        database_busy=min(1.0, (server.busy_s - busy_before) / span / fleet.cores),
        claim_wait_ms=1000 * waits[len(waits) // 2] if waits else float("inf"),
        claim_wait_p99_ms=1000 * waits[int(len(waits) * 0.99)] if waits else float("inf"),
        gpus_busy=min(1.0, run_s / span / fleet.gpus),
    )


FLEETS = (
    Fleet(gpus=1),
    Fleet(gpus=10),
    Fleet(gpus=100, cores=8),
    Fleet(gpus=300, cores=24),
    Fleet(gpus=1_000, cores=32),
    Fleet(gpus=1_000, cores=64),
)


def row_of_sums(fleet: Fleet, costs: Costs) -> str:
    one = sums(fleet, costs)
    return (
        f"| {fleet.gpus:,} | {one.jobs_s:,.4g} | {one.api_processes:.2f} "
        f"| {one.database_cores:.2f} | {one.connections:,} | {one.events_day / 1e6:,.1f} M "
        f"| {one.database_bytes_day / 1e9:,.1f} | {one.store_bytes_s / 1e6:,.1f} |"
    )


def row_of_simulation(fleet: Fleet, costs: Costs) -> str:
    seen = simulate(fleet, costs, seconds=120.0)
    return (
        f"| {fleet.gpus:,} | {fleet.cores} | {seen.jobs_s:,.4g} | {seen.database_busy:.0%} "
        f"| {seen.claim_wait_ms:,.0f} | {seen.claim_wait_p99_ms:,.0f} | {seen.gpus_busy:.0%} |"
    )


HEAD_OF_SUMS = (
    "| GPUs | jobs/s | api processes | PostgreSQL cores | connections | events a day "
    "| GB a day in PostgreSQL | MB/s to the store |\n|---|---|---|---|---|---|---|---|\n"
)
HEAD_OF_SIMULATION = (
    "| GPUs | PostgreSQL's cores | jobs/s | cores busy | claim, median ms | 99 % | GPUs busy |\n"
    "|---|---|---|---|---|---|---|\n"
)


def main() -> None:
    costs = Costs()
    sys.stdout.write(HEAD_OF_SUMS)
    for fleet in {each.gpus: each for each in FLEETS}.values():
        sys.stdout.write(f"{row_of_sums(fleet, costs)}\n")
    sys.stdout.write(f"\n{HEAD_OF_SIMULATION}")
    for fleet in FLEETS:
        sys.stdout.write(f"{row_of_simulation(fleet, costs)}\n")


if __name__ == "__main__":
    main()
