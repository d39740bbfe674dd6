"""The Celery edge, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.dispatch import consumer


class IdleSupervisor:
    def start(self) -> None: ...
    def notify(self) -> None: ...
    def drain(self) -> None: ...
    def count_dead_letter(self) -> None: ...


def test_the_consumer_goes_by_the_name_of_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    options_used: dict[str, Any] = {}

    def worker(**options: Any) -> Any:
        options_used.update(options)
        return SimpleNamespace(start=lambda: None, exitcode=0)

    monkeypatch.setattr(consumer, "DrainingWorker", worker)
    assert consumer.consume("redis://localhost:1/0", IdleSupervisor(), "dreamforge@a.1") == 0
    assert options_used["hostname"] == "dreamforge@a.1"
