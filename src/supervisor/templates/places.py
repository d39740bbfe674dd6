"""Where the models are: what a process that starts now could read of them."""

import logging
from collections.abc import Callable

from shared.threads import OneAtATime

log = logging.getLogger(__name__)

# A local disk answers in a millisecond. Each step waits for this before its runner starts.
ANSWER_WITHIN_S = 5.0


class ModelPlaces:
    """The places as they are now, read in a thread: the folder may lie on a disk that does not
    answer, and the supervisor's loop holds the leases of all steps."""

    def __init__(self, read: Callable[[], object]) -> None:
        self._read = read
        self._known: object = None
        self._disk = OneAtATime()

    async def now(self) -> object:
        """Where they are, or were when the disk last answered: what its silence would end, could
        not be made anew."""
        try:
            self._known = await self._disk.run(self._read, within_s=ANSWER_WITHIN_S)
        except OSError as error:  # a time-out is one
            log.warning("the folder of models cannot be looked at: %s", str(error) or "no answer")
        return self._known
