"""The evidence of one execution, and what is made of it."""

from __future__ import annotations

import anyio
import pytest

from shared.states import Reason
from supervisor.outcomes import evidence as evidence_module
from supervisor.outcomes.evidence import EvidenceRecorder


@pytest.mark.parametrize(("ours", "reason"), [(False, Reason.HOST_OOM), (True, "runner_crashed")])
def test_a_kill_of_ours_is_not_the_kernels(
    monkeypatch: pytest.MonkeyPatch, ours: bool, reason: Reason
) -> None:
    kills = iter([3, 4])  # in the worker's group: before the try, and when it is classification
    monkeypatch.setattr(evidence_module, "oom_kills", lambda: next(kills))
    evidence = EvidenceRecorder()
    if ours:
        evidence.record_signal("SIGKILL")
    evidence.facts.exitcode = -9
    assert evidence.classify().reason == reason


def test_an_execution_is_classified_once() -> None:
    evidence = EvidenceRecorder()
    evidence.facts.exitcode = -11
    classification = evidence.classify()
    evidence.facts.device_lost = True  # seen while memory was verified, when the reason was out
    assert evidence.classify() is classification


def test_figures_before_any_reading_are_none_and_not_zero() -> None:
    figures = EvidenceRecorder().figures()
    assert figures["gpu_mem_used_before"] is None
    assert figures["gpu_mem_used_after"] is figures["reclaim_seconds"] is None
    assert figures["signals"] == []


def test_the_time_of_a_runner_stands_still_while_it_waits_for_the_store() -> None:
    async def test() -> None:
        evidence = EvidenceRecorder()
        assert await evidence.is_time_over()
        with evidence.waiting_for_store():
            await anyio.sleep(0.05)
        started = anyio.current_time()
        assert await evidence.is_time_over()
        assert anyio.current_time() - started >= 0.05

    anyio.run(test)


def test_a_runner_that_still_waits_for_the_store_gets_no_more_time() -> None:
    async def test() -> None:
        evidence = EvidenceRecorder()
        with evidence.waiting_for_store(), anyio.fail_after(5):
            assert not await evidence.is_time_over()

    anyio.run(test)
