"""The worker's series before anything has happened."""

from __future__ import annotations

from prometheus_client import Counter
from tests.support.born_series import combinations, without_series

from shared.states import Reason
from supervisor.devices.device import Device
from supervisor.metrics import Metrics
from supervisor.templates.template import FailureReason

DEVICE = Device(id="cpu-0", kind="cpu", index=0, name="CPU", total_bytes=1, epsilon_bytes=0)


def started() -> Metrics:
    metrics = Metrics()
    metrics.init_device(DEVICE)
    metrics.init_template_failures(FailureReason)
    return metrics


def test_each_counter_is_there_before_its_first_count() -> None:
    spans = {"dreamforge_spans"}  # while traces are on; then it is there as well
    assert without_series(started().registry, Counter) == spans


def test_each_way_in_which_a_step_or_a_job_can_end_is_there_as_zero() -> None:
    registry = started().registry
    assert combinations(registry, "dreamforge_steps_total") == {(reason,) for reason in Reason}
    ends = combinations(registry, "dreamforge_jobs_finished_total")
    assert {reason for reason, _ in ends} == set(Reason)
    assert ("completed", "succeeded") in ends
    assert ("cancelled", "cancelled") in ends
    assert ("oom", "failed") in ends
    assert ("vram_busy",) in combinations(registry, "dreamforge_retries_total")
    assert ("failed",) in combinations(registry, "dreamforge_prunes_total")
