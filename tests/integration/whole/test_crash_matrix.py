"""Kill a process at every point of a job: no job is lost, none runs twice.

A cell of the matrix is a point and a victim. A gate holds the job at the point; a cell whose gate
no process reaches fails. Then the victim gets SIGKILL, the gate opens, the other processes notice
that the victim is away, and it restarts as an init system would restart it. The job must succeed,
`Settled.findings` must be empty, a client that follows the job over SSE must have seen each of its
events once and in order, and a receiver of webhooks each fact at least once, with one id.

How the points are reached. The processes are real. Two injected ports are replaced: a step store
that waits at a gate before or after its real calls, and a runner that waits in the middle of an
item. So a point is exactly between two writes, whatever the machine's speed, and `src/` has no code
for it. (A debugger would stop all threads at once, which SIGSTOP does too; a proxy sees bytes, not
boundaries.)

CI runs the cells of `EVERY_DAY`: each point and each victim. `make crash-matrix` runs all and
prints a table (`tests/integration/conftest.py`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.support.crash_bench import Bench, in_background, running
from tests.support.database import empty_tables
from tests.support.infrastructure import Infrastructure
from tests.support.worker_process import until

pytestmark = pytest.mark.timeout(240)

# The point, and the gate at which a job is held there.
POINTS = {
    "create commit, notification": "created",
    "claim, spawn": "claimed",
    "READY, running commit": "ready",
    "running commit, GO": "running committed",
    "input, first item": "input",
    "in the middle of an item": "mid item",
    "upload, row": "uploaded",
    "RESULT, verify": "result",
    "verify, verdict": "verified",
    "step 1, step 2": "between steps",
}
STOPPED = "worker stopped"
VICTIMS = ("api", "worker", "runner", "broker", "postgres", "store", STOPPED)
# Each of these runs every day, with one way of starting runners: each victim once. The whole matrix
# has a target of its own.
EVERY_DAY = {
    ("spawn", "create commit, notification", "api"),
    ("template", "claim, spawn", "broker"),
    ("template", "READY, running commit", "postgres"),
    ("spawn", "running commit, GO", STOPPED),
    ("template", "input, first item", "worker"),
    ("spawn", "upload, row", "store"),
    ("template", "RESULT, verify", "runner"),
}
# A worker that is killed between an upload and its row, or stopped there until another worker owns
# the step, leaves an object that no row names; `prune` removes it. The last upload may still run
# when the RESULT arrives. A PostgreSQL that is away there for longer than the lease (on a slow
# machine it is) leaves one too: the worker cannot know whether the row was written, and an object
# with a row must not be deleted.
LEAVES_AN_OBJECT = {
    (point, victim) for point in ("upload, row", "RESULT, verify") for victim in ("worker", STOPPED)
} | {(point, "postgres") for point in POINTS if point != "verify, verdict"}
# When the first picture is stored the last may be, too.
PAST_THE_STORE = {"upload, row", "RESULT, verify", "verify, verdict"}


@pytest.fixture(scope="module")
def benches(
    stack: Infrastructure, migrated_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Bench]]:
    """The bench of a way of starting runners. Another one takes its place: all use one database.

    A fixture with a parameter would be made anew for each cell, since the other two differ.
    """
    with ExitStack() as last:
        benches: dict[str, Bench] = {}

        def of(start: str) -> Bench:
            if start not in benches:
                last.close()
                benches.clear()
                empty_tables(migrated_url)
                folder = tmp_path_factory.mktemp("crash")
                bench = running(stack, migrated_url, folder, runner_start=start)
                benches[start] = last.enter_context(bench)
            return benches[start]

        yield of


def cells() -> list[object]:
    return [
        pytest.param(
            start,
            point,
            victim,
            id=f"{start} - {point} - {victim}",
            marks=() if (start, point, victim) in EVERY_DAY else pytest.mark.crash_matrix,
        )
        for start in ("spawn", "template")
        for point in POINTS
        for victim in VICTIMS
    ]


@pytest.mark.parametrize(("start", "point", "victim"), cells())
def test_a_job_succeeds_once_whichever_process_dies_at_whichever_point(
    benches: Callable[[str], Bench], start: str, point: str, victim: str
) -> None:
    gate, bench = POINTS[point], benches(start)
    bench.wait_standby()
    left_before = set(bench.unnamed_objects())
    image = bench.picture() if gate == "input" else None
    bench.gates.arm(gate)
    followed = in_background(
        lambda: bench.follow(bench.create(chain=gate == "between steps", image=image))
    )

    def job() -> str:
        return followed().job

    # A call that waits for the job, and is repeated when it is cut.
    waited = in_background(lambda: bench.wait_in_calls(job()))
    until(lambda: bench.gates.is_reached(gate), f"the job comes to: {point}; {bench.log_tails()}")
    if victim == STOPPED:
        stop_past_the_lease(bench, gate, job)
    else:
        before = bench.worker_log()
        bench.kill(victim)
        bench.gates.open(gate)
        if (what := misses(point, victim)) is not None:
            until(lambda: what in bench.worker_log()[len(before) :], f"it misses {victim}")
        bench.revive(victim)
    assert bench.wait_ended(job()) == "succeeded"
    bench.wait_idle(bench.worker)
    assert bench.settled().findings() == []
    assert followed().finding(bench.events_of(job())) is None
    assert waited() == "succeeded"
    bench.wait_delivered(job())
    pictures = 4 if gate == "between steps" else 2
    assert bench.receiver.finding(job(), artifacts=pictures) is None
    left = set(bench.unnamed_objects()) - left_before
    if (point, victim) in LEAVES_AN_OBJECT:
        assert all(job() in key for key in left)
    else:
        assert not left


def misses(point: str, victim: str) -> str | None:
    """What a worker logs when it misses this part; None where it no longer needs the part.

    The test waits for it, since a part that restarts before the worker needs it was never away.
    """
    if victim == "postgres":
        return "PostgreSQL"
    if victim == "store" and point not in PAST_THE_STORE:
        return " waits: "
    return None


def stop_past_the_lease(bench: Bench, gate: str, job: Callable[[], str]) -> None:
    """SIGSTOP the worker, let another one finish the job, SIGCONT it: it must write nothing."""
    stopped = bench.worker
    stopped.send_signal(signal.SIGSTOP)
    other = bench.start_worker()
    try:
        if gate == "created":  # the api still holds the job
            bench.gates.open(gate)
        bench.wait_ended(job())
        written = bench.events_of(job())
        bench.gates.open(gate)
        stopped.send_signal(signal.SIGCONT)
        bench.wait_idle(stopped)
        assert bench.events_of(job()) == written
    finally:
        stopped.send_signal(signal.SIGCONT)
        other.kill()
        other.wait(60)
