"""Rows as answers, where others may have written what stands in them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from api.schemas import serializers
from shared.dispatch.dead_letters import dead_message


@pytest.mark.parametrize(
    ("received_at", "shown"),
    [
        ("2026-01-31T12:00:00+02:00", "2026-01-31T10:00:00.000000Z"),
        ("yesterday", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
def test_a_dead_message_is_shown_whatever_moment_it_names(
    received_at: str, shown: str | None
) -> None:
    message = replace(dead_message(queue="q", reason="r", body=""), received_at=received_at)
    answer = json.loads(serializers.dead_message(message).model_dump_json())
    assert answer["since"] == shown
