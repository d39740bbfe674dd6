"""The Celery edge, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from supervisor.dispatch import consumer


class IdleSupervisor:
    def start(self) -> None: ...
    def notify(self) -> None: ...
    def drain(self) -> None: ...
    def count_dead_letter(self) -> None: ...


def test_the_consumer_goes_by_the_name_of_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    options_used: dict[str, Any] = {}

    class Observed(Celery):  # type: ignore[misc]
        def Worker(self, **options: Any) -> Any:  # noqa: N802 - Celery's own name
            options_used.update(options)
            return SimpleNamespace(start=lambda: None, exitcode=0)

    monkeypatch.setattr(consumer, "Celery", Observed)
    assert consumer.consume("redis://localhost:1/0", IdleSupervisor(), "dreamforge@a.1") == 0
    assert options_used["hostname"] == "dreamforge@a.1"
