"""`make test-hosts`: workers on several hosts, and a network that delays, loses and is cut.

Hosts are network namespaces of this machine, so it needs root. Api and parts are on one of them,
three workers on the others; processes, parts and network stack are real. Where libfaketime is,
clocks are wrong as well. After each scenario the
checker of the crash matrix looks at tables, objects and processes. A table of outcomes is printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from migrations.upgrade import upgrade
from tests.hosts import clocks
from tests.hosts import network as net
from tests.hosts.fleet import Fleet
from tests.hosts.scenarios import CLOCK_SCENARIOS, SCENARIOS, Scenario
from tests.hosts.servers import open_servers
from tests.support.infrastructure import infrastructure
from tests.support.webhook_receiver import receiver

HUB, HOSTS = "hub", ["a", "b", "c"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    name: str
    seconds: float
    jobs: int
    put_back: int
    lost: int
    findings: list[str]
    seen: str

    def __str__(self) -> str:
        row = f"{self.name:32}{self.seconds:7.1f}{self.jobs:6}{self.put_back:9}{self.lost:9}"
        return f"{row}{len(self.findings):10}  {self.seen}"


TITLE = f"{'':32}{'s':>7}{'jobs':>6}{'put back':>9}{'packets':>9}{'findings':>10}"


def missing() -> str | None:
    """What this machine lacks; None when the hosts can be made."""
    if os.geteuid() != 0:
        return (
            "make test-hosts needs root, because it makes network namespaces: sudo make test-hosts"
        )
    for program in ("ip", "nsenter"):
        if shutil.which(program) is None:
            return f"make test-hosts needs the program {program} (Debian: iproute2, util-linux)"
    if not net.TUN.exists():
        return f"make test-hosts needs {net.TUN} (the kernel's CONFIG_TUN; modprobe tun)"
    return None


def observe(fleet: Fleet, name: str, scenario: Scenario) -> Outcome:
    started, jobs, lost = time.monotonic(), len(fleet.accepted), fleet.wire.lost
    put_back, findings, seen = fleet.put_back(), list[str](), ""
    try:
        seen = scenario(fleet)
    except AssertionError as error:
        traceback.print_exc()
        findings.append(f"not as expected: {str(error).partition(';')[0]}")
    fleet.wire.heal()
    return Outcome(
        name=name,
        findings=findings + fleet.findings(),
        seconds=time.monotonic() - started,
        jobs=len(fleet.accepted) - jobs,
        put_back=fleet.put_back() - put_back,
        lost=fleet.wire.lost - lost,
        seen=seen,
    )


@contextmanager
def running_fleet(seed: int) -> Iterator[Fleet]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DF_")}
    with (
        tempfile.TemporaryDirectory(prefix="dreamforge-hosts-") as place,
        net.network([HUB, *HOSTS], seed) as (hosts, wire),
    ):
        os.chmod(place, 0o755)  # PostgreSQL is another user
        home, folder = Path(place) / "home", Path(place) / "fleet"
        folder.mkdir()
        hub = hosts[HUB]
        hub.enter()
        with open_servers(hub.address), infrastructure(home, clean) as stack, receiver() as calls:
            upgrade(stack.environment["DF_DATABASE_URL"])
            fleet = Fleet(
                stack, folder, calls, hub=hub, hosts=[hosts[name] for name in HOSTS], wire=wire
            )
            try:
                fleet.start()
                yield fleet
            finally:
                # A second Ctrl-C must not end the cleaning up.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                fleet.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make test-hosts", description=__doc__)
    parser.add_argument("--only", help="a pattern of the scenarios' names")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    args = parser.parse_args()
    if (line := missing()) is not None:
        print(line, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scenarios = dict(SCENARIOS)
    if clocks.library() is None:
        print("left out, for want of libfaketime (Debian: libfaketime): wrong clocks")
    else:
        scenarios |= CLOCK_SCENARIOS
    if args.only:
        scenarios = {name: each for name, each in scenarios.items() if re.search(args.only, name)}
    print(f"Linux {platform.release()}, seed {args.seed}; delay and loss by a wire of TUN devices")
    print(TITLE, flush=True)
    good = True
    with running_fleet(args.seed) as fleet:
        for name, scenario in scenarios.items():
            outcome = observe(fleet, name, scenario)
            print(outcome, *(f"  {finding}" for finding in outcome.findings), sep="\n", flush=True)
            good &= not outcome.findings
    return 0 if good else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
