"""What happens to hosts and their network. Each ends with a network that is whole again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping

from tests.hosts.fleet import HELD, LEASE_S, Fleet

# Leases end, and the rescuers have looked for them.
LONGER_THAN_A_LEASE_S = LEASE_S + 3.0
SHORTER_THAN_A_LEASE_S = 0.4 * LEASE_S
JOBS = 4


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
