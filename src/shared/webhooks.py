"""Webhooks as the Standard Webhooks specification has them: secrets, signatures, private networks.

A user may have two secrets while its receivers change from one to the other. Each message is then
signed with both, and a receiver that knows either of them accepts it.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

Network = IPv4Network | IPv6Network

PREFIX = "whsec_"
# What the specification asks for.
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
SECRETS_OF_ONE_NAME = 2
_NAME = re.compile(r"[a-z0-9_-]{1,64}")


class WebhookEvent(StrEnum):
    """What a job tells its receiver: that it began, each picture, how it ended."""

    START = "start"
    ARTIFACT = "artifact"
    END = "end"


@dataclass(frozen=True, kw_only=True, slots=True)
class WebhookSecret:
    """`name` is the user whose messages are signed with it."""

    name: str
    key: bytes = field(repr=False)


def parse_secrets(text: str) -> tuple[WebhookSecret, ...]:
    """`name:whsec_…,…`. Raises `ValueError`, which has no piece of a secret."""
    parts = [part for part in text.split(",") if part.strip()]
    secrets = tuple(_parse(number, part) for number, part in enumerate(parts, 1))
    names = [secret.name for secret in secrets]
    for number, name in enumerate(names, 1):
        if names[:number].count(name) > SECRETS_OF_ONE_NAME:
            raise ValueError(
                f"entry {number} is the third secret of its name; two are enough to change one"
            )
    return secrets


def _parse(number: int, part: str) -> WebhookSecret:
    name, separator, secret = part.strip().partition(":")
    if not separator or not _NAME.fullmatch(name):
        raise ValueError(f"entry {number} must be name:{PREFIX}…, the name that of an API key")
    if not secret.startswith(PREFIX):
        raise ValueError(f"entry {number}: after the name comes a secret that begins with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"entry {number}: what follows {PREFIX} must be base64") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"entry {number}: a secret has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, this "
            f"one {len(key)}; make one with: echo {PREFIX}$(openssl rand -base64 32)"
        )
    return WebhookSecret(name=name, key=key)


def parse_networks(text: str) -> tuple[Network, ...]:
    """`127.0.0.1/32,fd00::/8,…`. Raises `ValueError`."""
    networks = list[Network]()
    for part in (each.strip() for each in text.split(",") if each.strip()):
        try:
            networks.append(ip_network(part))
        except ValueError:
            raise ValueError(
                f"{part!r} is no network; write it like 10.0.0.0/8 or 127.0.0.1/32"
            ) from None
    return tuple(networks)


def sign(keys: Iterable[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: one signature for each key."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
