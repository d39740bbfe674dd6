"""The hostile runners of the CPU suite, unchanged, each with a CUDA context of its own on a GPU.

The tests are those of `tests/integration/supervisor/test_hostile.py`, on another device. Left out
are the few that need two slots or measure resident memory. It needs what the reclaim tests need,
less torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.supervisor import test_hostile as hostile
from tests.integration.supervisor.test_hostile import (  # noqa: F401 - they run from here as well
    test_a_cancelled_step_ends_as_cancelled,
    test_a_deaf_runner_is_killed_after_its_timeout,
    test_a_good_step_succeeds_without_a_signal,
    test_a_grandchild_in_another_session_does_not_outlive_its_step,
    test_a_grandchild_that_is_deaf_to_sigterm_is_killed,
    test_a_runner_killed_from_outside_is_a_crash,
    test_a_runner_that_breaks_the_protocol_is_ended_at_once,
    test_a_runner_that_dies_before_ready_costs_a_loss,
    test_a_runner_that_never_gets_ready_is_killed_and_costs_a_loss,
    test_a_runner_that_says_cancelled_when_nobody_cancelled_has_crashed,
    test_a_runner_that_speaks_out_of_turn_before_go_costs_a_loss,
    test_an_end_without_a_result_is_a_crash_that_says_how,
    test_an_error_frame_decides_the_reason,
    test_good_work_is_kept_when_the_runner_will_not_leave,
    test_half_a_frame_from_a_killed_runner_is_a_crash_and_needs_no_signal,
    test_half_a_frame_is_waited_for_until_the_timeout,
    test_intent_is_on_record_before_memory_is_back,
    test_the_cancel_is_written_and_each_signal_noted_before_it_is_sent,
    test_the_peak_of_a_failed_step_is_the_runners_own_if_that_is_possible,
)
from tests.support import direct_nvml
from tests.support.places import GPU

from supervisor.devices.gpu import EPSILON_BYTES

NO_DRIVER = not Path("/proc/driver/nvidia/version").exists()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(NO_DRIVER, reason="no NVIDIA driver on this machine"),
]


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hostile, "PLACE", GPU)
    before = direct_nvml.look()
    yield
    direct_nvml.assert_given_back(before, EPSILON_BYTES)
