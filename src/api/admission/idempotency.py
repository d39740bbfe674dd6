"""Idempotency keys: which request is the same as an earlier one."""

import hashlib
import json
from typing import Any

from shared.errors import InvalidInput

MAX_KEY_CHARACTERS = 255


def key_hash(header: str) -> str:
    """The hash that is stored for a client's `Idempotency-Key`. Quoted and bare keys are equal.

    Only the hash is kept: a key may be an order number, which is no business of ours.
    """
    key = header.strip()
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not key or len(key) > MAX_KEY_CHARACTERS or not (key.isascii() and key.isprintable()):
        raise InvalidInput(
            f"Idempotency-Key must be 1 to {MAX_KEY_CHARACTERS} printable ASCII characters",
            field="Idempotency-Key",
            maxLength=MAX_KEY_CHARACTERS,
        )
    return hashlib.sha256(key.encode()).hexdigest()


def fingerprint(parsed: Any) -> str:
    """The SHA-256 of the canonical JSON of a parsed body: order and white space do not count.

    Of the body as it was sent, before defaults are filled in: a release that changes a default must
    not turn a client's honest retry into a conflict.
    """
    canonical = json.dumps(parsed, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
