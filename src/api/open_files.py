"""How many files this process may hold open: every connection is one.

Shells and service managers start processes with a soft limit of 1024, which is fewer than the
streams that we promise. Whoever runs into it does not get an error but waits: the kernel keeps the
connection, and nobody accepts it.
"""

from __future__ import annotations

import resource

# Beside streams: database, store, broker, requests in flight.
SPARE = 256


def allow(streams: int) -> str | None:
    """Raise the soft limit as far as it goes; why that is not enough for `streams`, if so."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    needed = streams + SPARE
    if most != resource.RLIM_INFINITY and most < needed:
        return (
            f"DF_MAX_STREAMS={streams} needs {needed} open files, and the limit is {most}; "
            "raise it (ulimit -Hn) or lower the setting"
        )
    return None
