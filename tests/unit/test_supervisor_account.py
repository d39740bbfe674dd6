"""One try's own record: what it knows and what it makes of it."""

from __future__ import annotations

import pytest

from shared.states import Reason
from supervisor import account as account_module
from supervisor.account import Account


@pytest.mark.parametrize(("ours", "reason"), [(False, Reason.HOST_OOM), (True, "runner_crashed")])
def test_a_kill_of_ours_is_not_the_kernels(
    monkeypatch: pytest.MonkeyPatch, ours: bool, reason: Reason
) -> None:
    kills = iter([3, 4])  # in the worker's group: before the try, and when it is judged
    monkeypatch.setattr(account_module, "oom_kills", lambda: next(kills))
    account = Account()
    if ours:
        account.sent_signal("SIGKILL")
    account.know(exitcode=-9)
    assert account.judge().reason == reason


def test_figures_before_any_reading_are_none_and_not_zero() -> None:
    figures = Account().figures()
    assert figures["gpu_mem_used_before"] is None
    assert figures["gpu_mem_used_after"] is figures["reclaim_seconds"] is None
    assert figures["signals"] == []
