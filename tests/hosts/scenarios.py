"""What happens to hosts and their network. Each ends with a network that is whole again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from tests.hosts.fleet import DEADLINE_S, HELD, LEASE_S, Fleet
from tests.hosts.network import Host
from tests.support.crash_bench import Process

# Leases end, and the rescuers have looked for them.
LONGER_THAN_A_LEASE_S = LEASE_S + 3.0
SHORTER_THAN_A_LEASE_S = 0.4 * LEASE_S
JOBS = 4
# Stores take signatures that are up to 900 s early or late.
WITHIN_SIGNATURES_S, BEYOND_SIGNATURES_S = 400, 1000


def calm(fleet: Fleet) -> str:
    fleet.run_jobs(JOBS)
    return "all run"


def delay(fleet: Fleet) -> str:
    fleet.slow_down(delay_s=0.05, loss=0.0)
    fleet.run_jobs(JOBS)
    return "slower, and all run"


def loss(fleet: Fleet) -> str:
    fleet.slow_down(delay_s=0.01, loss=0.05)
    fleet.run_jobs(JOBS)
    return "slower, and all run"


def short_one_way(fleet: Fleet) -> str:
    """Nothing of the host reaches the others for less than a lease."""
    held = fleet.held_job()
    fleet.cut(held.host, to_hub=True, from_hub=False)
    time.sleep(SHORTER_THAN_A_LEASE_S)
    return _heal_and_end(fleet, held.id)


def unheard(fleet: Fleet) -> str:
    """Nothing of the host reaches the others for longer than a lease."""
    return _lost(fleet, to_hub=True, from_hub=False)


def deaf(fleet: Fleet) -> str:
    """Nothing reaches the host for longer than a lease."""
    return _lost(fleet, to_hub=False, from_hub=True)


def partition(fleet: Fleet) -> str:
    return _lost(fleet, to_hub=True, from_hub=True)


def all_away(fleet: Fleet) -> str:
    """No worker reaches anything for longer than a lease; a client creates jobs meanwhile."""
    held = fleet.held_job()
    for host in fleet.hosts:
        fleet.cut(host, to_hub=True, from_hub=True)
    made = [fleet.create() for _ in range(4)]
    time.sleep(LONGER_THAN_A_LEASE_S)
    assert fleet.open_jobs([held.id, *made]) == 5
    return _heal_and_end(fleet, held.id)


def stopped_host(fleet: Fleet) -> str:
    """Every process of the host stands still until another host has done its job."""
    held = fleet.held_job()
    fleet.send(held.host, signal.SIGSTOP, runner_first=False)
    fleet.wait_ended(held.id)
    fleet.gates.open(HELD)  # a runner that went on would go on here
    fleet.send(held.host, signal.SIGCONT, runner_first=True)
    fleet.wait_gone(held.runner)
    fleet.run_jobs(2)
    return f"ended on another host, losses {fleet.losses(held.id)}; its runner died as it woke"


def clocks_apart(fleet: Fleet) -> str:
    """Workers and then the api are 400 s ahead and behind; no lease, upload or URL knows it."""
    ahead, behind, _ = fleet.hosts
    clocks = {host.name: fleet.clock(host) for host in fleet.hosts}
    clocks[ahead.name].set(WITHIN_SIGNATURES_S)
    clocks[behind.name].set(-WITHIN_SIGNATURES_S)
    fleet.run_jobs(JOBS)
    losses = 0
    for seconds in (WITHIN_SIGNATURES_S, -WITHIN_SIGNATURES_S):
        held = fleet.held_job()
        clocks[held.host.name].set(seconds)
        time.sleep(LONGER_THAN_A_LEASE_S)
        fleet.gates.open(HELD)
        fleet.wait_ended(held.id)
        losses += fleet.losses(held.id)
        fleet.clock(fleet.hub).set(seconds)
        assert fleet.url_answers(held.id) == HTTPStatus.OK
    for host in (fleet.hub, *fleet.hosts):
        fleet.clock(host).set(0)
    assert losses == 0, f"{losses} leases were lost"
    return "all run; held over a lease on such hosts: losses 0"


def clock_beyond_signatures(fleet: Fleet) -> str:
    """A clock is set 1,000 s wrong while a step runs: the line says so, and nothing is lost."""
    for host in (fleet.hub, *fleet.hosts):
        fleet.clock(host)
    # A URL may be old, within its expiry, and not from the future.
    _beyond_signatures(fleet, BEYOND_SIGNATURES_S, "ahead of", url=HTTPStatus.FORBIDDEN)
    _beyond_signatures(fleet, -BEYOND_SIGNATURES_S, "behind", url=HTTPStatus.OK)
    fleet.run_jobs(2)
    return "said by worker and api, at start too; the step ended once the clock was set"


def _beyond_signatures(fleet: Fleet, ahead_s: int, which: str, *, url: HTTPStatus) -> None:
    said = f" s {which} the store's; let NTP set"
    held = fleet.held_job()
    clock = fleet.clock(held.host)
    clock.set(ahead_s)
    fleet.gates.open(HELD)
    fleet.until(lambda: fleet.log_says("gated_worker", "upload waits", said), "it is said")
    _is_not_ready(fleet, fleet.workers[held.host.name])
    _cannot_start(fleet, held.host, said)
    clock.set(0)
    assert fleet.wait_ended(held.id) == "succeeded"
    assert fleet.losses(held.id) == 0

    clock = fleet.clock(fleet.hub)
    clock.set(ahead_s)
    _is_not_ready(fleet, fleet.api)
    assert fleet.log_says("gated_api", "not ready: store", said)
    assert fleet.url_answers(held.id) == url
    clock.set(0)
    assert fleet.url_answers(held.id) == HTTPStatus.OK


def _is_not_ready(fleet: Fleet, process: Process) -> None:
    answer = fleet.readiness(process)
    assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE, answer.text


def _cannot_start(fleet: Fleet, host: Host, said: str) -> None:
    refused = fleet.start_on(
        host, 0, DF_STARTUP_TIMEOUT_S="1", DF_LOCK_DIR=str(fleet.folder / "locks-of-another")
    )
    assert refused.wait(DEADLINE_S) == 1
    assert fleet.log_says("gated_worker", "worker: DF_S3_ENDPOINT: ", said)


def _lost(fleet: Fleet, *, to_hub: bool, from_hub: bool) -> str:
    """The host is cut off until another host has done its job."""
    held = fleet.held_job()
    fleet.cut(held.host, to_hub=to_hub, from_hub=from_hub)
    others = [fleet.create() for _ in range(4)]
    fleet.wait_ended(held.id)
    fleet.wait_gone(held.runner)
    fleet.until(lambda: fleet.open_jobs(others) == 0, "the others do the rest")
    return _heal_and_end(fleet, held.id)


def _heal_and_end(fleet: Fleet, job: str) -> str:
    fleet.wire.heal()
    fleet.gates.open(HELD)
    fleet.wait_all_ended()
    fleet.run_jobs(2)
    return f"the job that it had: losses {fleet.losses(job)}"


Scenario = Callable[[Fleet], str]
SCENARIOS: Mapping[str, Scenario] = {
    "calm": calm,
    "100 ms there and back": delay,
    "20 ms, 5 % of packets lost": loss,
    "unheard, less than a lease": short_one_way,
    "unheard, more than a lease": unheard,
    "deaf, more than a lease": deaf,
    "cut off, more than a lease": partition,
    "all cut off, more than a lease": all_away,
    "a host stands still": stopped_host,
}
# These need libfaketime, and come last: workers are started again with a clock of their own.
CLOCK_SCENARIOS: Mapping[str, Scenario] = {
    "clocks 400 s ahead and behind": clocks_apart,
    "a clock 1,000 s wrong, both ways": clock_beyond_signatures,
}
