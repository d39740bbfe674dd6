"""A preview is asked for, paid for, and never worth a step."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from runner.images.previews import encode_preview
from runner.ipc.previews import FIRST_AFTER_S, SHARE, PreviewRequests
from shared.protocol.messages import MAX_PREVIEW_BYTES


class Clock:
    """The time, which only a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def sampling(clock: Clock, seconds: float) -> PreviewRequests:
    """Requests of a job that has been sampled for so long."""
    requests = PreviewRequests()
    assert not requests.due()
    clock.now_s += seconds
    return requests


def test_none_is_due_before_it_is_asked_for_and_one_for_each_request(clock: Clock) -> None:
    requests = sampling(clock, FIRST_AFTER_S)
    assert not requests.due()
    requests.ask()
    requests.ask()
    assert requests.due()
    with requests.making():
        pass
    assert not requests.due()


def test_the_first_one_is_not_due_before_its_usual_cost_is_a_small_share(clock: Clock) -> None:
    requests = PreviewRequests()
    requests.ask()
    assert not requests.due()
    clock.now_s += FIRST_AFTER_S - 0.01
    assert not requests.due()
    clock.now_s += 0.02
    assert requests.due()


def test_the_next_one_is_not_due_before_all_with_it_are_paid_for(clock: Clock) -> None:
    requests = sampling(clock, FIRST_AFTER_S)
    for number in range(2, 6):
        requests.ask()
        assert requests.due()
        with requests.making():
            clock.now_s += 0.1
        requests.ask()
        paid_s = number * 0.1 / SHARE  # since sampling began
        clock.now_s = 100.0 + paid_s - 0.01
        assert not requests.due()
        clock.now_s += 0.02


def test_after_a_failure_none_is_due_any_more(clock: Clock) -> None:
    requests = sampling(clock, FIRST_AFTER_S)
    requests.ask()
    assert requests.due()
    with requests.making():
        requests.give_up()
    requests.ask()
    clock.now_s += 1e6
    assert not requests.due()


def test_a_preview_is_a_small_jpeg() -> None:
    assert encode_preview(None) is None
    encoded = encode_preview(Image.new("RGB", (2000, 1000), "red"))
    assert encoded is not None
    width, height, jpeg = encoded
    assert (width, height) == (512, 256)
    assert Image.open(io.BytesIO(jpeg)).format == "JPEG"
    encoded = encode_preview(Image.effect_noise((512, 512), 255).convert("RGB"))
    assert encoded is None or len(encoded[2]) <= MAX_PREVIEW_BYTES
