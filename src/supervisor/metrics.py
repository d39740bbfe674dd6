"""What the worker counts. Prometheus, base units, one registry per process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.states import TRANSIENT
from supervisor.devices.device import Device, Reading

_STEP_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_QUEUE_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_RECLAIM_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The worker's series, all prefixed `dreamforge_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        gpu = ("gpu", "uuid")
        self.steps = Counter(
            "dreamforge_steps", "Tries that ended, by reason", ("reason",), registry=r
        )
        self.jobs_finished = Counter(
            "dreamforge_jobs_finished",
            "Jobs that ended by this worker's word, by status and reason",
            ("status", "reason"),
            registry=r,
        )
        self.claimed = Counter("dreamforge_claims", "Steps claimed", registry=r)
        self.retries = Counter("dreamforge_retries", "Tries put back", ("reason",), registry=r)
        self.queue_wait_seconds = Histogram(
            "dreamforge_queue_wait_seconds",
            "From the moment a step could be claimed to its claim; not what follows for memory",
            buckets=_QUEUE_SECONDS,
            registry=r,
        )
        self.start_seconds = Histogram(
            "dreamforge_start_seconds", "Claim to GO", buckets=_STEP_SECONDS, registry=r
        )
        self.run_seconds = Histogram(
            "dreamforge_run_seconds",
            "GO to the last process gone",
            buckets=_STEP_SECONDS,
            registry=r,
        )
        self.reclaim_seconds = Histogram(
            "dreamforge_reclaim_seconds",
            "Tree gone to memory proven back",
            gpu,
            buckets=_RECLAIM_SECONDS,
            registry=r,
        )
        self.signals = Counter(
            "dreamforge_signals", "Signals sent to runners", (*gpu, "signal"), registry=r
        )
        self.rescues = Counter("dreamforge_swept", "Steps taken from lost owners", registry=r)
        self.notifications = Counter("dreamforge_doorbells", "Doorbell messages heard", registry=r)
        self.prunes = Counter(
            "dreamforge_prunes", "Turns to prune, by what came of them", ("outcome",), registry=r
        )
        self.dead_letters = Counter(
            "dreamforge_dead_letters",
            "Jobs given up, and messages that could not be read",
            ("kind",),
            registry=r,
        )
        # Shown as 0, so that a first one is a rise.
        for kind in ("job", "message"):
            self.dead_letters.labels(kind=kind)
        for reason in sorted(TRANSIENT):
            self.retries.labels(reason=reason)
        self.slot_state = Gauge(
            "dreamforge_slot_state", "1 for the slot's state", (*gpu, "state"), registry=r
        )
        self.pid_namespace_shared = Gauge(
            "dreamforge_pids_map",
            "1 where the process ids that the device lists are ours",
            gpu,
            registry=r,
        )
        self.quarantines = Counter(
            "dreamforge_quarantines", "Slots taken out of service", gpu, registry=r
        )
        self.driver_failures = Counter(
            "dreamforge_driver_failures",
            "Steps left to the rescuer because of an error of the worker's own",
            gpu,
            registry=r,
        )
        self.leaked_bytes = Gauge(
            "dreamforge_leaked_bytes", "Memory not back after the last step", gpu, registry=r
        )
        self.memory_used = Gauge(
            "dreamforge_memory_used_bytes", "Device memory in use", gpu, registry=r
        )
        self.memory_free = Gauge(
            "dreamforge_memory_free_bytes", "Device memory free", gpu, registry=r
        )
        self.memory_reserved = Gauge(
            "dreamforge_memory_reserved_bytes", "Kept by the device's driver", gpu, registry=r
        )
        self.memory_total = Gauge("dreamforge_memory_total_bytes", "Device memory", gpu, registry=r)
        self.step_memory = Gauge(
            "dreamforge_step_memory_bytes",
            "Device memory of the last try that ended: before, peak, after",
            (*gpu, "when"),
            registry=r,
        )
        self._spans = Counter(
            "dreamforge_spans",
            "Spans: made, of these exported and failed; the rest waits or was dropped",
            ("outcome",),
            registry=r,
        )
        self.spool_bytes = Gauge(
            "dreamforge_spool_bytes", "Finished images not yet in the store", registry=r
        )

    def init_device(self, device: Device) -> None:
        """Show a device's counters as 0: a first quarantine must be a rise, or no alert sees it."""
        gpu = labels(device)
        self.quarantines.labels(**gpu)
        self.driver_failures.labels(**gpu)
        self.reclaim_seconds.labels(**gpu)
        self.leaked_bytes.labels(**gpu).set(0)
        for name in ("SIGTERM", "SIGKILL"):
            self.signals.labels(**gpu, signal=name)

    def record_claim(self, *, queued_s: float, again: bool) -> None:
        """A step was claimed. `again`: only to look whether the memory is free by now."""
        self.claimed.inc()
        if not again:
            self.queue_wait_seconds.observe(queued_s)

    def count_spans(self, outcome: str, spans: int) -> None:
        """From any thread."""
        self._spans.labels(outcome=outcome).inc(spans)

    def record_leak(self, device: Device, leaked_bytes: int) -> None:
        """What a step that has ended still holds on its device, by the latest look."""
        self.leaked_bytes.labels(**labels(device)).set(leaked_bytes)

    def record_memory(self, device: Device, now: Reading) -> None:
        """What the device says of itself."""
        self.memory_used.labels(**labels(device)).set(now.used_bytes)
        self.memory_free.labels(**labels(device)).set(now.free_bytes)
        self.memory_reserved.labels(**labels(device)).set(now.reserved_bytes)
        self.memory_total.labels(**labels(device)).set(now.total_bytes)

    def record_reclaim(self, device: Device, seconds: float) -> None:
        """The device was proven clean this long after the tree was gone."""
        self.reclaim_seconds.labels(**labels(device)).observe(seconds)

    def record_signal(self, device: Device, name: str) -> None:
        """A signal goes to the runner on this device."""
        self.signals.labels(**labels(device), signal=name).inc()

    def record_step_memory(
        self, device: Device, *, before: int | None, peak: int, after: int | None
    ) -> None:
        """A try is over; bytes, None where it never came to a reading."""
        for when, used in (("before", before), ("peak", peak), ("after", after)):
            if used is not None:
                self.step_memory.labels(**labels(device), when=when).set(used)


def labels(device: Device) -> dict[str, str]:
    """What tells one device's series from another's."""
    return {"gpu": str(device.index), "uuid": device.id}
