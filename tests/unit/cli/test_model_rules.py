"""What `dreamforge model get` says of a model's parameters."""

from __future__ import annotations

from typing import Any

import pytest

from cli.commands.models import _rule


@pytest.mark.parametrize(
    ("rule", "accepts", "default"),
    [
        ({"minimum": 1, "maximum": 100, "default": 1}, "1 to 100", "1"),
        ({"minimum": 64, "maximum": 64, "multipleOf": 8, "default": 64}, "64 alone", "64"),
        ({"minimum": 64, "maximum": 512, "multipleOf": 8}, "64 to 512, a multiple of 8", "-"),
        ({"minimum": 0, "maximum": 50.0, "default": 7.5}, "0 to 50", "7.5"),
        ({"exclusiveMinimum": 0, "maximum": 1}, "above 0, up to 1", "-"),
        ({"minimum": 0.5}, "from 0.5", "-"),
        ({"type": "string", "format": "uuid"}, "a picture", "-"),
        ({"enum": [None, "ddim", "euler"], "default": None}, "ddim, euler", "the model's own"),
        ({"maxItems": 8}, "up to 8", "-"),
        ({"maxLength": 0, "default": ""}, "nothing", ""),
        ({}, "", "-"),
    ],
)
def test_a_rule_is_said_in_words(rule: Any, accepts: str, default: str) -> None:
    assert _rule("x", rule) == ("x", accepts, default)
