"""Which addresses a webhook may reach.

A client names the receiver, and we call it from inside the operator's network. So only addresses
of the public internet are allowed, and those that the operator names (`DF_WEBHOOK_PRIVATE`).
Some IPv6 addresses lead to an IPv4 one; that one is judged as well.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from shared.webhooks import Network

Address = IPv4Address | IPv6Address

# NAT64: the last 32 bits are the IPv4 address that a packet is sent on to (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")


def is_allowed(address: Address, private: Sequence[Network]) -> bool:
    """Whether a webhook may be sent to this address. `private` are the operator's networks."""
    face = getattr(address, "ipv4_mapped", None) or address  # nothing but another spelling
    return any(face in network for network in private) or all(map(_is_public, _faces(face)))


def literal(host: str) -> Address | None:
    """The address, where a URL's host is one; a name is judged when it is resolved."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _faces(address: Address) -> Iterator[Address]:
    """The address, and the one that a translator or a relay makes of it."""
    if isinstance(address, IPv6Address) and address in _TRANSLATED:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
        return
    yield address
    if isinstance(address, IPv6Address) and address.sixtofour is not None:
        yield address.sixtofour


def _is_public(address: Address) -> bool:
    # `is_global` alone would let multicast, site-local and reserved IPv6 addresses pass. Teredo
    # (2001::/32) and local NAT64 (64:ff9b:1::/48) are not global, or reserved.
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not (address.is_multicast or address.is_reserved or site_local)
