"""How long a worker waits for what: leases, the kill chain, pauses and heartbeats.

No settings: each follows from the others, and no situation of an operator asks for another value.
They are one record that a worker is given, so that a test can give it a quicker one.
"""

from dataclasses import dataclass

# A runner that is killed is seen to be gone so much later (`supervisor.processes.child`).
LEAST_MARGIN_S = 0.2

# Bounds of a worker's end that others set; `test_stop_grace` holds them against their owners.
# A claim's transaction that was begun before SIGTERM (`shared.db.engine`).
CLAIM_IN_FLIGHT_S = 20.0
# A question to a GPU that hangs is not cut off by its step's deadline
# (`supervisor.devices.nvml_client`).
READING_IN_FLIGHT_S = 22.0
# Standbys 10, other processes 5, deregistering 20, NVML helpers 2. Then the process ends at once:
# it waits for no child that does not die, and for no thread of an upload that was given up.
LEAVING_S = 10.0 + 5.0 + 20.0 + 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Seconds. Raises `ValueError` when a lease leaves no time for what it is there for."""

    poll_s: float = 1.0  # a free slot looks for work without a notification
    heartbeat_s: float = 10.0  # a third of `shared.db.workers.LIVE_S`: one may be lost
    report_slots_s: float = 1.0  # how old a change of a slot may be in the worker's row
    cancel_watch_s: float = 1.0  # PRODUCT: the owner sees a cancel within a second or so
    rescue_every_s: float = 5.0
    gauges_every_s: float = 2.0
    preview_every_s: float = 0.5  # PRODUCT: two previews a second, at most

    # Leases: a worker owns a step for `lease_s` after each renewal.
    lease_s: float = 60.0
    lease_renew_s: float = 10.0
    lease_margin_s: float = 5.0  # what is left for signals, and for clocks to disagree

    # The kill chain
    ready_timeout_s: float = 120.0  # spawn until READY
    exit_grace_s: float = 5.0  # RESULT until the process is gone by itself
    term_grace_s: float = 5.0  # SIGTERM until SIGKILL
    kill_deadline_s: float = 10.0  # SIGKILL until the runner counts as unkillable
    reclaim_deadline_s: float = 30.0  # processes gone until the slot goes into quarantine

    # The object store
    publish_deadline_s: float = 300.0  # how long finished pictures wait for a store that is away
    store_refuses_s: float = 30.0  # without a picture taken, until no step is claimed
    store_look_s: float = 5.0  # until a store that refuses is asked again

    # Before a step is tried again: up to base * 2^(tries - 1), at most cap, drawn at random.
    retry_base_s: float = 2.0
    retry_cap_s: float = 60.0

    def __post_init__(self) -> None:
        if not self.lease_margin_s >= LEAST_MARGIN_S:  # nor is NaN
            raise ValueError(
                f"lease_margin_s must be at least {LEAST_MARGIN_S:g}: a runner that was killed in "
                "time is only seen to be gone so much later, and the lease must last until then"
            )
        if self.fence_s <= self.lease_renew_s:
            raise ValueError(
                f"lease_s={self.lease_s:g} leaves no time to run: a lease must be longer than "
                "lease_renew_s + term_grace_s + kill_deadline_s + lease_margin_s = "
                f"{self.lease_s - self.fence_s + self.lease_renew_s:g}"
            )
        if self.deadman_s < self.fence_s:
            raise ValueError(
                "term_grace_s + kill_deadline_s must be at least lease_margin_s="
                f"{self.lease_margin_s:g}, or a runner's own timer would fire before we stop it"
            )

    @property
    def fence_s(self) -> float:
        """How long after a renewal was *sent* a runner may still live (DESIGN: two clocks)."""
        return self.lease_s - (self.term_grace_s + self.kill_deadline_s + self.lease_margin_s)

    @property
    def deadman_s(self) -> float:
        """How long after a renewal was sent a runner's own timer kills it.

        Later than the fence, so that a living worker stops its runner in an orderly way, and
        before the lease ends, so that a stopped worker's runner is gone when the next owner starts.
        """
        return self.lease_s - 2 * self.lease_margin_s

    @property
    def orphan_age_s(self) -> float:
        """From this age on an object that no row names belongs to no upload: none waits so long.

        The hour is for the clocks of the store and of the pruning process to disagree.
        """
        return self.lease_s + self.publish_deadline_s + 3600.0

    def stop_grace_s(self, drain_s: float) -> float:
        """The longest a worker takes to end after SIGTERM: a container's stop grace."""
        return (
            CLAIM_IN_FLIGHT_S
            + drain_s
            + self.exit_grace_s
            + self.term_grace_s
            + self.kill_deadline_s
            + self.reclaim_deadline_s
            + READING_IN_FLIGHT_S
            + self.publish_deadline_s
            + self.lease_s  # so long the verdict is offered to a database that is away
            + LEAVING_S
        )


TIMINGS = Timings()
