"""A preview is asked for, paid for, and never worth a step."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from runner.images.previews import encode_preview
from runner.ipc.previews import SHARE, PreviewRequests
from shared.protocol.messages import MAX_PREVIEW_BYTES


def test_none_is_due_before_it_is_asked_for_and_one_for_each_request() -> None:
    requests = PreviewRequests()
    assert not requests.due()
    requests.ask()
    requests.ask()
    assert requests.due()
    with requests.making():
        pass
    assert not requests.due()


def test_the_next_one_is_not_due_before_the_last_one_is_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    requests = PreviewRequests()
    requests.ask()
    with requests.making():
        now_s += 0.1
    requests.ask()
    now_s += 0.1 / SHARE - 0.01
    assert not requests.due()
    now_s += 0.02
    assert requests.due()


def test_after_a_failure_none_is_due_any_more() -> None:
    requests = PreviewRequests()
    requests.ask()
    with requests.making():
        requests.give_up()
    requests.ask()
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
