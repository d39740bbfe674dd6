"""The object store as the steps of a worker see it, and whether it takes pictures now.

A store that is away for moments costs nothing: finished pictures wait for it in memory. One that is
away for longer, or refuses (its disk is full, a clock is wrong), costs each step that runs
meanwhile its work and a loss. So once it has taken no picture for a while, the worker claims no
step until it takes one, or the object that it is asked to take from time to time.

Failures count together only while some picture is offered: between two that nobody repeats in time
(their steps were cancelled or lost) nothing is known of the store, however long that was.
"""

import logging
from collections.abc import Callable

import anyio

from shared.artifact_store import ArtifactStore
from shared.errors import InfraUnavailable

log = logging.getLogger(__name__)

# The longest pause before a picture is offered again (`supervisor.execution.uploader`).
RETRY_MOST_S = 10.0
# A store that was offered nothing for longer may have worked meanwhile. Twice: a host may be slow.
_UNASKED_S = 2 * RETRY_MOST_S


class PictureStore:
    """`objects`, and whether it has refused every `put` of a while. Belongs to one event loop.

    Raises what `ArtifactStore` raises.
    """

    def __init__(
        self,
        objects: ArtifactStore,
        *,
        refuses_after_s: float,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._objects = objects
        self._refuses_after_s = refuses_after_s
        self._clock = clock
        self._failing_since: float | None = None
        self._failed_at = 0.0  # the newest failure
        self.refuses = False

    async def put(self, key: str, data: bytes, *, content_type: str, sha256: str) -> None:
        offered_at = self._clock()
        try:
            await self._objects.put(key, data, content_type=content_type, sha256=sha256)
        except InfraUnavailable as error:
            self._failed(error, offered_at)
            raise
        self._took()

    async def get(self, key: str, *, at_most_bytes: int) -> bytes | None:
        return await self._objects.get(key, at_most_bytes=at_most_bytes)

    async def delete(self, key: str) -> None:
        await self._objects.delete(key)

    async def look_again(self) -> None:
        """Ask a store that refuses whether it still does: perhaps no picture is left that waits.

        Raises `InfraUnavailable` where it does.
        """
        if self.refuses:
            await self._objects.probe_write()
            self._took()

    def _failed(self, error: InfraUnavailable, offered_at: float) -> None:
        now = self._clock()
        if self._failing_since is None or offered_at - self._failed_at > _UNASKED_S:
            self._failing_since = now
        self._failed_at = now
        if not self.refuses and now - self._failing_since >= self._refuses_after_s:
            self.refuses = True
            log.error(
                "the object store has taken no picture for %.0f s, so this worker claims no step "
                "until it does: %s",
                now - self._failing_since,
                error,
            )

    def _took(self) -> None:
        if self.refuses:
            log.info("the object store takes pictures again")
        self._failing_since, self.refuses = None, False
