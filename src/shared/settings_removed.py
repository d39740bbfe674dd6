"""Settings that are gone, and what an operator should know who has one of them."""

from collections.abc import Iterable, Mapping

_LEASE = "the timings of leases are fixed, because each follows from the others"
_STOP = "the timings of stopping a step are fixed; DF_DRAIN_S is for how long steps may go on"
_RETRY = "the pauses between tries are fixed; DF_MAX_ATTEMPTS bounds how many there are"
REMOVED: Mapping[str, str] = {
    "DF_DOORBELL_TIMEOUT_S": "a notification may take one second",
    "DF_EXIT_GRACE_S": _STOP,
    "DF_KILL_DEADLINE_S": _STOP,
    "DF_LEASE_MARGIN_S": _LEASE,
    "DF_LEASE_RENEW_S": _LEASE,
    "DF_LEASE_S": _LEASE,
    "DF_MAX_BODY_BYTES": "a request may have 1 MiB, of which a valid one needs a few kilobytes",
    "DF_POLL_S": "a free slot looks for work once a second",
    "DF_PUBLISH_DEADLINE_S": "finished pictures wait 300 s for a store that is away",
    "DF_QUEUES": "there is one queue; DF_SERVES keeps a worker for priorities or users",
    "DF_READY_TIMEOUT_S": "a runner may take 120 s to start",
    "DF_RECLAIM_DEADLINE_S": _STOP,
    "DF_RETRY_BASE_S": _RETRY,
    "DF_RETRY_CAP_S": _RETRY,
    "DF_TERM_GRACE_S": _STOP,
}


def describe_removed(names: Iterable[str]) -> list[str]:
    """One line for each of these variables that was a setting once."""
    gone = sorted({name.upper() for name in names} & REMOVED.keys())
    return [f"{name} is no setting any more: {REMOVED[name]}. Remove it" for name in gone]
