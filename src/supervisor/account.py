"""What is known of one try: evidence for its classification, and the figures of OR-001."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from supervisor.classify import Evidence, Judgement, classify
from supervisor.devices import Reading
from supervisor.host_memory import oom_kills
from supervisor.verify import Reclaimed


class Account:
    """Filled in as facts arrive; readable at any moment. Memory figures are bytes."""

    def __init__(self) -> None:
        self._evidence = Evidence()
        self._oom_kills = oom_kills()
        self.before: Reading | None = None
        self.reclaimed: Reclaimed | None = None
        self.peak_bytes = 0
        self.signals: list[str] = []

    @property
    def device_lost(self) -> bool:
        return self._evidence.device_lost

    def know(self, **facts: Any) -> None:
        """Add to the evidence; the names are those of `Evidence`."""
        self._evidence = replace(self._evidence, **facts)

    def judge(self) -> Judgement:
        """Why the try ended, as far as can be told by now."""
        return classify(
            replace(
                self._evidence,
                cgroup_oom_kills=oom_kills() - self._oom_kills,
                we_killed="SIGKILL" in self.signals,
            )
        )

    def saw_memory(self, used_bytes: int) -> None:
        self.peak_bytes = max(self.peak_bytes, used_bytes)

    def sent_signal(self, name: str) -> None:
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
            "gpu_mem_used_after": None if back is None else back.after_bytes,
            "peak_gpu_mem_used": self.peak_bytes,
            "reclaim_seconds": None if back is None else round(back.seconds, 3),
            "signals": list(self.signals),
        }
