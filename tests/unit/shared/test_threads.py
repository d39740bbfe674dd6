"""Blocking calls in a thread, on a host that has none left."""

import threading

import anyio
import pytest

from shared.threads import run_in_thread


def test_a_lack_of_threads_is_a_lack_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="no thread left"):
        anyio.run(run_in_thread, int)


def test_another_error_stays_what_it_is() -> None:
    def work() -> None:
        raise RuntimeError("another")

    with pytest.raises(RuntimeError, match="another"):
        anyio.run(run_in_thread, work)
