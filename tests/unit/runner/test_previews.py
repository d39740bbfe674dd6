"""A preview is asked for, paid for, and never worth a step."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from runner.images.previews import send_preview
from runner.ipc.previews import SHARE, PreviewRequests
from shared.protocol.messages import FromRunner, Preview


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
    sent: list[tuple[FromRunner, bytes]] = []
    send_preview(None, 0, 1, 4, lambda message, body=b"": sent.append((message, body)))
    assert sent == []
    picture = Image.effect_noise((2000, 1000), 64).convert("RGB")
    send_preview(picture, 2, 1, 4, lambda message, body=b"": sent.append((message, body)))
    for message, body in sent:  # noise may be too large even then
        assert message == Preview(item_index=2, step=1, steps=4, width=512, height=256)
        assert Image.open(io.BytesIO(body)).format == "JPEG"
    small = Image.new("RGB", (16, 8), "red")
    send_preview(small, 2, 1, 4, lambda message, body=b"": sent.append((message, body)))
    assert sent[-1][0] == Preview(item_index=2, step=1, steps=4, width=16, height=8)
