"""Every point of a job's way, and somebody is killed there: nothing is lost, nothing is doubled.

A cell of the matrix is a point and a victim. The job is brought to the point and held there; that
it got there is proven by the gate, and a cell whose point nobody reached fails. Then the victim
gets SIGKILL, the gate opens, those who need the victim miss it, and it comes back as an init system
would bring it. The job must end as it should, `Settled.findings` must have nothing to say, and a
client that follows the job over SSE must have seen each of its events once and in order.

How the points are reached. The processes are the real ones, wired from the real parts; in their
place stand two things that are injected anyway: a step store that waits at a gate before or after
its own real calls, and a runner that waits at one in the middle of an item. So a point is exactly
between two writes, whatever the machine's speed, and `src/` knows nothing of it. (A debugger would
stop all threads at once, which is what SIGSTOP is for; a proxy sees bytes, not boundaries.)

CI runs the cells of `EVERY_DAY`: each point and each victim. `make crash-matrix` runs all and
prints a table (`tests/integration/conftest.py`).
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from tests.support.crash_bench import Bench, in_background, running
from tests.support.database import empty_tables
from tests.support.infrastructure import Infrastructure
from tests.support.worker_process import until

pytestmark = pytest.mark.timeout(240)

# The point, and the gate at which a job is held there.
POINTS = {
    "create commit, doorbell": "created",
    "claim, spawn": "claimed",
    "READY, running commit": "ready",
    "running commit, GO": "running committed",
    "in the middle of an item": "mid item",
    "upload, row": "uploaded",
    "RESULT, verify": "result",
    "verify, verdict": "verified",
    "step 1, step 2": "between steps",
}
STOPPED = "worker stopped"
VICTIMS = ("api", "worker", "runner", "broker", "postgres", "store", STOPPED)
EVERY_DAY = {
    ("create commit, doorbell", "api"),
    ("create commit, doorbell", "postgres"),
    ("claim, spawn", "worker"),
    ("claim, spawn", "broker"),
    ("READY, running commit", "postgres"),
    ("running commit, GO", "runner"),
    ("running commit, GO", STOPPED),
    ("in the middle of an item", "worker"),
    ("in the middle of an item", STOPPED),
    ("upload, row", "store"),
    ("upload, row", "worker"),
    ("RESULT, verify", "runner"),
    ("verify, verdict", "postgres"),
    ("verify, verdict", "worker"),
    ("step 1, step 2", "worker"),
    ("step 1, step 2", "broker"),
}
# A worker that is killed between an upload and its row, or stopped there until the step is somebody
# else's, leaves an object that no row names; `prune` is for these. When the RESULT is heard, the
# last upload may still be on its way. So does a PostgreSQL that is away between the two for longer
# than the lease, which on a slow machine it is: whether the row is there nobody can tell then, and
# an object that has one must not be deleted.
LEAVES_AN_OBJECT = {
    (point, victim) for point in ("upload, row", "RESULT, verify") for victim in ("worker", STOPPED)
} | {(point, "postgres") for point in POINTS if point != "verify, verdict"}
# When the first picture is stored the last may be, too.
PAST_THE_STORE = {"upload, row", "RESULT, verify", "verify, verdict"}


@pytest.fixture(scope="module")
def bench(
    stack: Infrastructure, migrated_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    empty_tables(migrated_url)
    with running(stack, migrated_url, tmp_path_factory.mktemp("crash")) as one:
        yield one


def cells() -> list[object]:
    return [
        pytest.param(
            point,
            victim,
            id=f"{point} - {victim}",
            marks=() if (point, victim) in EVERY_DAY else pytest.mark.crash_matrix,
        )
        for point in POINTS
        for victim in VICTIMS
    ]


@pytest.mark.parametrize(("point", "victim"), cells())
def test_whoever_dies_wherever_the_job_ends_well_and_once(
    bench: Bench, point: str, victim: str
) -> None:
    gate = POINTS[point]
    bench.wait_standby()
    left_before = set(bench.unnamed_objects())
    bench.gates.arm(gate)
    followed = in_background(lambda: bench.follow(bench.create(chain=gate == "between steps")))

    def job() -> str:
        return followed().job

    until(lambda: bench.gates.is_reached(gate), f"the job comes to: {point}; {bench.log_tails()}")
    if victim == STOPPED:
        stop_past_the_lease(bench, gate, job)
    else:
        heard = bench.worker_log()
        bench.kill(victim)
        bench.gates.open(gate)
        if (what := misses(point, victim)) is not None:
            until(lambda: what in bench.worker_log()[len(heard) :], f"it misses {victim}")
        bench.revive(victim)
    assert bench.wait_ended(job()) == "succeeded"
    bench.wait_idle(bench.worker)
    assert bench.settled().findings() == []
    assert followed().finding(bench.events_of(job())) is None
    left = set(bench.unnamed_objects()) - left_before
    if (point, victim) in LEAVES_AN_OBJECT:
        assert all(job() in key for key in left)
    else:
        assert not left


def misses(point: str, victim: str) -> str | None:
    """What a worker says that goes on without this part; None where it does not need it any more.

    A part that is back before anybody looked for it was never away.
    """
    if victim == "postgres":
        return "PostgreSQL"
    if victim == "store" and point not in PAST_THE_STORE:
        return " waits: "
    return None


def stop_past_the_lease(bench: Bench, gate: str, job: Callable[[], str]) -> None:
    """SIGSTOP the worker, let another one finish its job, SIGCONT it: it writes nothing more."""
    stopped = bench.worker
    stopped.send_signal(signal.SIGSTOP)
    other = bench.start_worker()
    try:
        if gate == "created":  # the job is still in the api's hands
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
