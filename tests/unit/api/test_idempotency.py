"""Idempotency keys and fingerprints."""

from __future__ import annotations

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


def test_order_and_white_space_do_not_change_a_fingerprint() -> None:
    assert fingerprint(b'{"a": 1, "b": {"c": 2, "d": 3}}') == fingerprint(
        b'{"b":{"d":3,"c":2},\n"a":1}'
    )


@pytest.mark.parametrize(
    "other", [b'{"seed": 2}', b'{"seed": 1.0}', b'{"seed": "1"}', b'{"seed": 1, "count": 1}', b"{}"]
)
def test_another_body_as_sent_has_another_fingerprint(other: bytes) -> None:
    assert fingerprint(b'{"seed": 1}') != fingerprint(other)
