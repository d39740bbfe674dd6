"""Collects what is known of one execution: evidence for its classification, figures of OR-001."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from supervisor.devices.cgroup import oom_kills
from supervisor.devices.device import Reading
from supervisor.outcomes.classify import Classification, Evidence, classify
from supervisor.processes.step_group import StepGroup
from supervisor.slots.reclaim import ReclaimReading


class EvidenceRecorder:
    """Filled in as facts arrive; readable at any moment. Memory figures are bytes."""

    def __init__(self) -> None:
        self.facts = Evidence()
        self._oom_kills_before = oom_kills()
        self.group: StepGroup | None = None  # of its runner, where it has one
        self._classification: Classification | None = None
        self._store_waits = 0  # how many waits for the store hold the runner up just now
        self._store_waited_s = 0.0
        self._signals: list[str] = []
        self.before: Reading | None = None
        self.reclaimed: ReclaimReading | None = None
        self.peak_bytes = 0

    def record_memory(self, used_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, used_bytes)

    def record_signal(self, name: str) -> None:
        """We are about to send this signal to the runner."""
        self._signals.append(name)
        self.facts.we_killed |= name == "SIGKILL"

    @property
    def explained(self) -> bool:
        """Whether the evidence says more than how the process ended."""
        facts = self.facts
        failed = facts.failure is not None and facts.failure.reason != "cancelled"
        return facts.result or failed or facts.device_lost

    def classify(self) -> Classification:
        """Why the execution ended, by what was known at the first call.

        Only once: the state machine's reason and the verdict's message must come from the same
        classification. What comes to light while memory is verified does not change it.
        """
        if self._classification is None:
            self._count_oom_kills()
            self._classification = classify(self.facts)
        return self._classification

    def _count_oom_kills(self) -> None:
        """In the runner's own group; where it has none, in the worker's, which all slots share."""
        if self.group is None:
            self.facts.cgroup_oom_kills = oom_kills() - self._oom_kills_before
            return
        self.facts.cgroup_oom_kills = self.group.oom_kills()
        if self.group.hit_limit():
            self.facts.cgroup_limit_bytes = self.group.limit_bytes

    @contextmanager
    def waiting_for_store(self) -> Iterator[None]:
        """Inside, the runner cannot go on before the store takes or sends a picture."""
        self._store_waits += 1
        began = anyio.current_time()
        try:
            yield
        finally:
            self._store_waits -= 1
            self._store_waited_s += anyio.current_time() - began

    async def is_time_over(self) -> bool:
        """Whether the runner used up its time; call it when the timeout fires.

        The runner's clock stands still while it waits for the store, so this may take as long as it
        has waited. False when it waits just now: it gets no more time, so that the device is not
        held for a store that is away.
        """
        granted_s = 0.0
        while not self._store_waits:
            more_s = self._store_waited_s - granted_s
            if more_s <= 0:
                return True
            granted_s += more_s
            await anyio.sleep(more_s)
        return False

    def figures(self) -> dict[str, Any]:
        """OR-001 AC-1, as the parent read them; None where there was no reading.

        `reclaim_seconds` lasts from the tree's end to the last reading of the device, which is the
        one that proved it clean unless there is a `gpu.not_reclaimed` too.
        """
        before, after = self.before, self.reclaimed
        return {
            "gpu_mem_used_before": None if before is None else before.used_bytes,
            "gpu_mem_used_after": None if after is None else after.now.used_bytes,
            "peak_gpu_mem_used": self.peak_bytes,
            "reclaim_seconds": None if after is None else round(after.seconds, 3),
            "signals": list(self._signals),
        }
