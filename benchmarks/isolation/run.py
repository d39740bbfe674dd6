"""One run, one table: a resident pipeline, a Celery worker with one, this by template and by spawn.

`make bench` or `python -m benchmarks.isolation.run [--quick] [--json FILE]`; `--jobs`, `--backlog`
and `--rounds` make the run shorter or longer. All four sides live through the whole run and take
turns; before each turn every side has come to rest. What is read is the ratio to the resident
pipeline's turn of the same round, and the median of these.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from benchmarks.edge import creates, servers
from benchmarks.isolation import processes, sides, table
from benchmarks.isolation.models import make_models
from benchmarks.isolation.results import (
    SPAWN,
    TEMPLATE,
    Creates,
    MeasuredRow,
    Results,
    Turn,
    describe_machine,
    write,
)
from benchmarks.isolation.workload import (
    COPY,
    DEEP,
    DEEP_COPY,
    DEMO,
    MOST_SIDE,
    MOST_STEPS,
    SIDE,
    Job,
    Row,
    Side,
    deep_rows,
    rows,
)

from cli.models.install import install, register


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is measured. A spawned side takes part in the first round only: it is the slowest by
    far, and its ratio is the one that needs the fewest digits."""

    jobs: int = 20
    backlog: int = 6
    rounds: int = 3
    idle_rounds: int = 7


FULL = Size()
QUICK = Size(jobs=5, backlog=2, rounds=1, idle_rounds=2)


class Everyone(NamedTuple):
    """The sides, in the order of their turns."""

    resident: sides.Resident
    celery: sides.CeleryWorker
    template: sides.Stack
    spawn: sides.Stack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="5 jobs and one round: a smoke test")
    parser.add_argument("--json", type=Path, help="write the figures to this file, for the plot")
    for name in ("jobs", "backlog", "rounds"):
        parser.add_argument(f"--{name}", type=int, help="instead of the usual number")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit)
    size = QUICK if arguments.quick else FULL
    given = {name: getattr(arguments, name) for name in ("jobs", "backlog", "rounds")}
    results = measure(replace(size, **{name: each for name, each in given.items() if each}))
    sys.stdout.write(table.render(results))
    if arguments.json:
        write(arguments.json, results)


def measure(size: Size) -> Results:
    """Start all sides, measure, and end them."""
    began = time.monotonic()
    results = Results(machine=describe_machine(), load=[os.getloadavg()[0]])
    results.creates = measure_creates()
    with tempfile.TemporaryDirectory(prefix="df-bench-") as name, ExitStack() as running:
        everyone = start(Path(name), running)
        warm_up(everyone, DEMO, COPY)
        short = job_of(0.3, everyone.resident, side=SIDE)
        long = job_of(3.0, everyone.resident, side=MOST_SIDE)
        asked = rows(size.jobs, size.backlog, short, long)
        measure_rows(results, asked, size, everyone)
        measure_idle(results, size, everyone)
        measure_memory(results, everyone)
        warm_up(everyone, DEEP, DEEP_COPY)
        measure_rows(results, deep_rows(2 * size.backlog), size, everyone)
    results.load.append(os.getloadavg()[0])
    results.took_s = time.monotonic() - began
    return results


def start(folder: Path, running: ExitStack) -> Everyone:
    """Start all four sides; `running` ends them."""
    folders = make_models(folder)
    say("starting two stacks, a Celery worker and a resident pipeline")
    template, spawn = (
        running.enter_context(sides.stack(name, folder / name)) for name in (TEMPLATE, SPAWN)
    )
    for stack in (template, spawn):
        for model in (COPY, DEEP, DEEP_COPY):
            add_model(stack, model, folders[model])
    paths = {model: str(place) for model, place in folders.items()}
    redis = running.enter_context(
        sides.celery_worker(paths, template.environment, folder / "celery.log")
    )
    process = running.enter_context(sides.resident(paths, folder / "resident.log"))
    return Everyone(process, redis, template, spawn)


def add_model(stack: sides.Stack, model: str, folder: Path) -> None:
    """Install a model on a stack that runs, and wait until its worker has it."""
    environment = stack.environment
    register(environment["DF_DATABASE_URL"], install(folder, Path(environment["DF_MODELS_DIR"])))
    stack.await_model(model)


def warm_up(everyone: Everyone, *models: str) -> None:
    """Let every side draw twice with each model."""
    say("warming up")
    for side in everyone:
        for model in models:
            side.draw([Job(model=model)] * 2)


def job_of(seconds: float, resident: sides.Resident, *, side: int) -> Job:
    """A job with as many sampling steps as take the resident pipeline so long on this machine."""
    few, many = (Job(model=COPY, side=side, steps=steps) for steps in (5, 25))

    def draw_s(job: Job) -> float:
        began = time.monotonic()
        resident.draw([job])
        return time.monotonic() - began

    few_s, many_s = (min(draw_s(job) for _ in range(3)) for job in (few, many))
    step_s = (many_s - few_s) / (many.steps - few.steps)
    steps = few.steps + round((seconds - few_s) / step_s)
    say(f"{seconds:g} s: {steps} sampling steps of {side} x {side} pixels")
    return replace(few, steps=max(1, min(MOST_STEPS, steps)))


def measure_rows(results: Results, asked: Sequence[Row], size: Size, everyone: Everyone) -> None:
    """Every row, in rounds; in each the sides take turns."""
    measured = [
        MeasuredRow(title=row.title, pictures=row.pictures, wanted=row.wanted) for row in asked
    ]
    results.rows += measured
    for number in range(size.rounds):
        for row, result in zip(asked, measured, strict=True):
            if number < row.rounds:
                say(f"round {number + 1}: {row.title}")
                present = everyone if number == 0 else everyone[:-1]  # spawn is the last
                result.rounds.append(
                    {side.name: take_turn(row, side, everyone) for side in present}
                )


def take_turn(row: Row, side: Side, everyone: Everyone) -> Turn:
    """Measure one side while the others rest."""
    settle(everyone)
    cpu_s, began = processes.cpu_s([side.pid]), time.monotonic()
    row.run(side)
    wall_s = time.monotonic() - began
    return Turn(wall_s=wall_s, cpu_s=processes.cpu_s([side.pid]) - cpu_s)


def measure_idle(results: Results, size: Size, everyone: Everyone) -> None:
    """One job at a time, each on a worker that is ready for it."""
    say("one on an idle worker")
    row = Row(title="", run=lambda side: side.draw([Job()]), pictures=1)
    for _ in range(size.idle_rounds):
        turns = {side.name: take_turn(row, side, everyone) for side in everyone}
        results.idle_s.append({name: turn.wall_s for name, turn in turns.items()})


def measure_memory(results: Results, everyone: Everyone) -> None:
    """Of what waits for work, when all of it has been used."""
    settle(everyone)
    for side in everyone:
        results.waiting_mib[side.name] = processes.private_mib(side.waiting())
    results.templates_mib = processes.shared_mib(everyone.template.templates())


def measure_creates() -> list[Creates]:
    """On parts of its own, before all others start."""
    say("creates a second")
    with servers.parts() as environment:
        measured = creates.rows(environment)
    return [Creates(clients=row.clients, ours=row.creates_s, bare=row.bare_s) for row in measured]


def settle(everyone: Everyone) -> None:
    """Wait until no side does anything: a worker prepares its next runner after a step's end."""
    processes.settle([side.pid for side in everyone])


def say(line: str) -> None:
    """Progress, beside the table on standard output."""
    sys.stderr.write(line + "\n")


def _exit(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end the sides too."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
