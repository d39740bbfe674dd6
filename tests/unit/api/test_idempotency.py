"""Idempotency keys and fingerprints."""

from __future__ import annotations

from typing import Any

import pytest

from api.admission.idempotency import fingerprint, key_hash
from shared.errors import InvalidInput


def test_quoted_and_bare_keys_are_equal() -> None:
    assert key_hash('"order-1"') == key_hash("order-1") == key_hash("  order-1 ")


def test_different_keys_differ_and_only_a_hash_is_kept() -> None:
    assert key_hash("a") != key_hash("A")
    assert len(key_hash("order-1")) == 64
    assert "order" not in key_hash("order-1")


@pytest.mark.parametrize("key", ["", '""', "   ", "x" * 256, "clé", "tab\tinside", "nul\0"])
def test_a_key_that_is_empty_long_or_not_printable_ascii_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput, match="255"):
        key_hash(key)


def test_a_key_of_255_characters_is_accepted_quoted_too() -> None:
    assert key_hash("x" * 255) == key_hash('"' + "x" * 255 + '"')


def test_order_does_not_change_a_fingerprint() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"seed": 1.0}, {"seed": "1"}, {"seed": 1, "count": 1}, {}]
)
def test_another_body_as_sent_has_another_fingerprint(other: dict[str, Any]) -> None:
    assert fingerprint({"seed": 1}) != fingerprint(other)
