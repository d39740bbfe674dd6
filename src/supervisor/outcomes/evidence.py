"""What is known of one try: evidence for its classification, and the figures of OR-001."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import anyio

from supervisor.devices.cgroup import oom_kills
from supervisor.devices.device import Reading
from supervisor.outcomes.classify import Classification, Evidence, classify
from supervisor.slots.reclaim import ReclaimReading


class EvidenceRecorder:
    """Filled in as facts arrive; readable at any moment. Memory figures are bytes.

    `waits` is how many times over the runner waits for the store just now, `waited_s` how long it
    has in all.
    """

    def __init__(self) -> None:
        self._evidence = Evidence()
        self._oom_kills = oom_kills()
        self._classification: Classification | None = None
        self.before: Reading | None = None
        self.reclaimed: ReclaimReading | None = None
        self.peak_bytes = 0
        self.waits = 0
        self.waited_s = 0.0
        self.signals: list[str] = []

    @property
    def device_lost(self) -> bool:
        return self._evidence.device_lost

    def know(self, **facts: Any) -> None:
        """Add to the evidence; the names are those of `Evidence`."""
        self._evidence = replace(self._evidence, **facts)

    @property
    def explained(self) -> bool:
        """Whether what is known says more than how the process ended."""
        known = self._evidence
        said = known.failure is not None and known.failure.reason != "cancelled"
        return known.result or said or known.device_lost

    def classify(self) -> Classification:
        """Why the try ended, by what was known when this was asked for the first time.

        Once: the reason that the state machine went by, and the words that the verdict gives for
        it, are of one judgement. What comes to light while memory is verified is another story.
        """
        if self._classification is None:
            kills = oom_kills() - self._oom_kills
            we_killed = "SIGKILL" in self.signals
            self._classification = classify(
                replace(self._evidence, cgroup_oom_kills=kills, we_killed=we_killed)
            )
        return self._classification

    @contextmanager
    def waiting_for_store(self) -> Iterator[None]:
        """Inside, the runner cannot go on before the store takes or gives a picture."""
        self.waits += 1
        began = anyio.current_time()
        try:
            yield
        finally:
            self.waits -= 1
            self.waited_s += anyio.current_time() - began

    async def is_time_over(self) -> bool:
        """To be asked when a runner's time is; False when it waits for the store just then.

        Its clock stands still while it waits, so this may take as long as it has waited. One that
        still waits gets no more, so that the device is not held for a store that is away.
        """
        granted_s = 0.0
        while not self.waits:
            more_s = self.waited_s - granted_s
            if more_s <= 0:
                return True
            granted_s += more_s
            await anyio.sleep(more_s)
        return False

    def record_memory(self, used_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, used_bytes)

    def record_signal(self, name: str) -> None:
        """We are about to send this one to the runner."""
        self.signals.append(name)

    def figures(self) -> dict[str, Any]:
        """OR-001 AC-1, as the parent read them; None where it never came to a reading.

        `reclaim_seconds` lasts from the tree's end to the last look at the device, which is the one
        that proved it clean unless there is a `gpu.not_reclaimed` too.
        """
        back = self.reclaimed
        return {
            "gpu_mem_used_before": None if self.before is None else self.before.used_bytes,
            "gpu_mem_used_after": None if back is None else back.now.used_bytes,
            "peak_gpu_mem_used": self.peak_bytes,
            "reclaim_seconds": None if back is None else round(back.seconds, 3),
            "signals": list(self.signals),
        }
