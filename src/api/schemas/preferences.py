"""`Prefer: wait=N` (RFC 7240): how long a client would like to wait for its answer."""

import re
from collections.abc import Sequence
from urllib.request import parse_http_list

# A wait that is longer meets the time limits of proxies and clients; who wants more asks again.
MAX_WAIT_S = 60
_SECONDS = re.compile(
    r'wait\s*=\s*(?P<quote>"?)(?P<seconds>[0-9]{1,9})(?P=quote)\s*', re.IGNORECASE
)


def parse_wait(headers: Sequence[str]) -> int | None:
    """The seconds of the first `wait` in these `Prefer` headers, `MAX_WAIT_S` at most.

    None without one. The RFC has a server ignore a preference that it cannot follow, so a wait
    that is too long or no number is no error: `Preference-Applied` tells what was done.
    """
    for preference in parse_http_list(",".join(headers)):
        if preference.partition("=")[0].strip().lower() == "wait":
            found = _SECONDS.fullmatch(preference.partition(";")[0])
            return None if found is None else min(int(found["seconds"]), MAX_WAIT_S)
    return None
