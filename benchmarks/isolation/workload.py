"""What every side is asked for: pictures, in the same words and sizes, and how they come in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

PROMPT, GUIDANCE, SEED = "a red apple", 3.0, 1
# A picture's sides in pixels and its sampling steps; and what the copies of the demo model may do.
SIDE, STEPS = 64, 20
MOST_SIDE, MOST_STEPS = 192, 200
DEMO, COPY = "dreamforge-demo@1", "dreamforge-copy@1"
# Two with the layers of Stable Diffusion 1.5.
DEEP, DEEP_COPY = "dreamforge-deep@1", "dreamforge-deep-copy@1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """`count` square pictures of one model, each sampled in `steps` steps."""

    model: str = DEMO
    side: int = SIDE
    steps: int = STEPS
    count: int = 1


class Side(Protocol):
    """One way to draw. `pid` is the process at the root of its others."""

    name: str
    pid: int

    def draw(self, jobs: Sequence[Job]) -> None:
        """Submit all jobs at once; return when the last has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """`run` draws `pictures`. `wanted` is the bound of the ratio to the resident pipeline. It is
    measured in at most so many `rounds`."""

    title: str
    run: Callable[[Side], None]
    pictures: int
    wanted: str = ""
    rounds: int = 3


def rows(jobs: int, backlog: int, short: Job, long: Job) -> list[Row]:
    """The rows of the table: `jobs` pictures each; `backlog` where the resident pipeline takes 0.3
    s for a picture, with `short`, and 3 s, with `long`."""
    return [
        _row(f"backlog of {jobs}", [Job()] * jobs, "≤ 1.5"),
        Row(
            title=f"{jobs}, one after another",
            run=lambda side: _one_after_another(side, [Job()] * jobs),
            pictures=jobs,
            wanted="≤ 1.6",
        ),
        _row(f"one batch of {jobs}", [Job(count=jobs)]),
        _row(
            f"backlog of {jobs}, two models alternating",
            _alternating(jobs, DEMO, COPY),
            "faster than Celery",
        ),
        _row(f"backlog of {backlog}, of 0.3 s", [short] * backlog),
        Row(
            title=f"backlog of {backlog}, of 3 s",
            run=lambda side: side.draw([long] * backlog),
            pictures=backlog,
            wanted="≤ 1.08",
            rounds=2,  # a third of the time of the whole run, and the differences are small
        ),
    ]


def deep_rows(backlog: int) -> list[Row]:
    """The rows with models of more layers, measured when all else is: their templates stay."""
    return [
        _row(
            f"{backlog} alternating, layers of SD 1.5",
            _alternating(backlog, DEEP, DEEP_COPY),
            "faster than Celery",
        )
    ]


def _alternating(jobs: int, *models: str) -> list[Job]:
    return [Job(model=models[n % len(models)]) for n in range(jobs)]


def body(job: Job) -> Mapping[str, Any]:
    """The job as a request of the API."""
    return {
        "type": "generate",
        "model_id": job.model,
        "prompt": PROMPT,
        "width": job.side,
        "height": job.side,
        "steps": job.steps,
        "guidance": GUIDANCE,
        "seed": SEED,
        "count": job.count,
    }


def _row(title: str, jobs: list[Job], wanted: str = "") -> Row:
    pictures = sum(job.count for job in jobs)
    return Row(title=title, run=lambda side: side.draw(jobs), pictures=pictures, wanted=wanted)


def _one_after_another(side: Side, jobs: list[Job]) -> None:
    for job in jobs:
        side.draw([job])
