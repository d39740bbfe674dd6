"""The worker's metrics: Prometheus, base units, one registry per process."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.states import TRANSIENT, Reason, Status, status_of
from supervisor.devices.device import Device, Reading

# Why a step was put back whose memory others hold; it is no `Reason`, for no step ends by it.
VRAM_BUSY = "vram_busy"
_GPU = ("gpu", "uuid")
_STEP_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_QUEUE_SECONDS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
_RECLAIM_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class PruneOutcome(StrEnum):
    DONE = "done"
    ELSEWHERE = "elsewhere"  # another worker makes a pass
    FAILED = "failed"


class Metrics:
    """The worker's series, all prefixed `dreamforge_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._add_steps()
        self._add_slots()
        self._add_memory()
        self._add_templates()

    def _add_steps(self) -> None:
        counter = partial(Counter, registry=self.registry)
        seconds = partial(Histogram, registry=self.registry)
        self.steps = counter("dreamforge_steps", "Attempts that ended, by reason", ("reason",))
        self.jobs_finished = counter(
            "dreamforge_jobs_finished",
            "Jobs that this worker ended, by status and reason",
            ("status", "reason"),
        )
        self.claimed = counter("dreamforge_claims", "Steps claimed")
        self.retries = counter("dreamforge_retries", "Attempts put back", ("reason",))
        self.queue_wait_seconds = seconds(
            "dreamforge_queue_wait_seconds",
            "From the moment a step could be claimed to its claim; not what follows for memory",
            buckets=_QUEUE_SECONDS,
        )
        self.start_seconds = seconds(
            "dreamforge_start_seconds", "Claim to GO", buckets=_STEP_SECONDS
        )
        self.run_seconds = seconds(
            "dreamforge_run_seconds", "GO to the last process gone", buckets=_STEP_SECONDS
        )
        self.rescues = counter("dreamforge_swept", "Steps taken from lost owners")
        self.notifications = counter("dreamforge_doorbells", "Notifications received")
        self.prunes = counter("dreamforge_prunes", "Passes to prune, by outcome", ("outcome",))
        self.dead_letters = counter(
            "dreamforge_dead_letters", "Jobs given up, and messages that are unreadable", ("kind",)
        )
        self._spans = counter(
            "dreamforge_spans",
            "Spans: made, of these exported and failed; the rest waits or was dropped",
            ("outcome",),
        )
        self.spool_bytes = Gauge(
            "dreamforge_spool_bytes",
            "Finished images not yet in the store",
            registry=self.registry,
        )
        # Shown as 0, as all counters of this class are: a first failure must be a rise. A series
        # that begins with it has no rate, and no alert fires.
        for kind in ("job", "message"):
            self.dead_letters.labels(kind=kind)
        for reason in (*sorted(TRANSIENT), VRAM_BUSY):
            self.retries.labels(reason=reason)
        for reason in Reason:
            self.steps.labels(reason=reason)
            self.jobs_finished.labels(status=status_of(reason), reason=reason)
        for outcome in PruneOutcome:
            self.prunes.labels(outcome=outcome)

    def _add_slots(self) -> None:
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self.slot_state = gauge("dreamforge_slot_state", "1 for the slot's state", (*_GPU, "state"))
        self.pid_namespace_shared = gauge(
            "dreamforge_pids_map", "1 where the process ids that the device lists are ours", _GPU
        )
        self.quarantines = counter("dreamforge_quarantines", "Slots taken out of service", _GPU)
        self.executor_failures = counter(
            "dreamforge_driver_failures",
            "Steps left to the rescuer because of an error of the worker's own",
            _GPU,
        )
        self.signals = counter("dreamforge_signals", "Signals sent to runners", (*_GPU, "signal"))
        self.reclaim_seconds = Histogram(
            "dreamforge_reclaim_seconds",
            "Tree gone to memory proven back",
            _GPU,
            buckets=_RECLAIM_SECONDS,
            registry=self.registry,
        )

    def _add_memory(self) -> None:
        gauge = partial(Gauge, registry=self.registry)
        self.leaked_bytes = gauge(
            "dreamforge_leaked_bytes", "Memory not back after the last step", _GPU
        )
        self.memory_used = gauge("dreamforge_memory_used_bytes", "Device memory in use", _GPU)
        self.memory_free = gauge("dreamforge_memory_free_bytes", "Device memory free", _GPU)
        self.memory_reserved = gauge(
            "dreamforge_memory_reserved_bytes", "Kept by the device's driver", _GPU
        )
        self.memory_total = gauge("dreamforge_memory_total_bytes", "Device memory", _GPU)
        self.step_memory = gauge(
            "dreamforge_step_memory_bytes",
            "Device memory of the last attempt that ended: before, peak, after",
            (*_GPU, "when"),
        )

    def _add_templates(self) -> None:
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self._templates = gauge("dreamforge_templates", "Template processes, by state", ("state",))
        self._warm_bytes = gauge(
            "dreamforge_warm_bytes", "Host memory in which models are kept warm"
        )
        self.template_forks = counter("dreamforge_template_forks", "Runners forked")
        self.template_failures = counter(
            "dreamforge_template_failures", "Templates that did not do their part", ("reason",)
        )
        self._warm_starts = counter(
            "dreamforge_warm_starts",
            "Steps by whether a model was warm",
            ("result",),
        )
        for result in ("hit", "miss"):
            self._warm_starts.labels(result=result)

    def init_device(self, device: Device) -> None:
        """Show a device's counters as 0: a first quarantine must be a rise, or no alert fires."""
        gpu = labels(device)
        for counter in (self.quarantines, self.executor_failures, self.reclaim_seconds):
            counter.labels(**gpu)
        self.leaked_bytes.labels(**gpu).set(0)
        for name in ("SIGTERM", "SIGKILL"):
            self.signals.labels(**gpu, signal=name)

    def init_template_failures(self, reasons: Iterable[str]) -> None:
        """Show the counters of templates as 0."""
        for reason in reasons:
            self.template_failures.labels(reason=reason)

    def record_claim(self, *, queued_s: float, again: bool) -> None:
        """Count a claim. `again`: only to check whether the memory is free by now."""
        self.claimed.inc()
        if not again:
            self.queue_wait_seconds.observe(queued_s)

    def record_templates(self, states: Mapping[str, int], warm_bytes: int) -> None:
        """Show how many templates there are in each state, and what their models take."""
        for state, number in states.items():
            self._templates.labels(state=state).set(number)
        self._warm_bytes.set(warm_bytes)

    def record_warm_start(self, *, hit: bool) -> None:
        """Count a step for which a template could have had the model."""
        self._warm_starts.labels(result="hit" if hit else "miss").inc()

    def count_spans(self, outcome: str, spans: int) -> None:
        """Count spans; may be called from any thread."""
        self._spans.labels(outcome=outcome).inc(spans)

    def record_end(self, reason: Reason, *, job: tuple[Status, Reason] | None) -> None:
        """Count a step that ended, and how its `job` ended if it did."""
        self.steps.labels(reason=reason).inc()
        if reason is Reason.ATTEMPTS_EXHAUSTED:
            self.dead_letters.labels(kind="job").inc()
        if job is not None:
            status, job_reason = job
            self.jobs_finished.labels(status=status, reason=job_reason).inc()

    def record_leak(self, device: Device, leaked_bytes: int) -> None:
        """Show what a step that has ended still holds on its device, by the latest reading."""
        self.leaked_bytes.labels(**labels(device)).set(leaked_bytes)

    def record_memory(self, device: Device, now: Reading) -> None:
        """Show the device's latest reading."""
        gpu = labels(device)
        self.memory_used.labels(**gpu).set(now.used_bytes)
        self.memory_free.labels(**gpu).set(now.free_bytes)
        self.memory_reserved.labels(**gpu).set(now.reserved_bytes)
        self.memory_total.labels(**gpu).set(now.total_bytes)

    def record_reclaim(self, device: Device, seconds: float) -> None:
        """Count a device that was proven clean so long after the tree was gone."""
        self.reclaim_seconds.labels(**labels(device)).observe(seconds)

    def record_signal(self, device: Device, name: str) -> None:
        """Count a signal to the runner on this device."""
        self.signals.labels(**labels(device), signal=name).inc()

    def record_step_memory(
        self, device: Device, *, before: int | None, peak: int, after: int | None
    ) -> None:
        """Show the bytes of an attempt that ended; None where there was no reading."""
        for when, used in (("before", before), ("peak", peak), ("after", after)):
            if used is not None:
                self.step_memory.labels(**labels(device), when=when).set(used)


def labels(device: Device) -> dict[str, str]:
    """The labels of a device's series."""
    return {"gpu": str(device.index), "uuid": device.id}
