"""Which addresses a webhook may reach.

A client names the receiver, and we call it from inside the operator's network. So only addresses
of the public internet are allowed, and those that the operator names (`DF_WEBHOOK_PRIVATE`).
An IPv6 address that a translator maps to an IPv4 one is judged by that one; 6to4 is refused.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from shared.webhooks import Network

Address = IPv4Address | IPv6Address

# NAT64: the last 32 bits are the IPv4 address that a packet is sent on to (RFC 6052).
_TRANSLATED = IPv6Network("64:ff9b::/96")
# Special networks (IANA's registries, deploy/k3s/webhooks.yaml) in which releases of Python differ:
# 3.11.7 takes all of 6to4 for global, 3.13.0 some addresses of the first two.
_SPECIAL = (
    IPv4Network("192.0.0.0/24"),
    IPv6Network("2001::/23"),
    IPv6Network("2002::/16"),
    IPv6Network("3fff::/20"),
)


def is_allowed(address: Address, private: Sequence[Network]) -> bool:
    """Whether a webhook may be sent to this address. `private` are the operator's networks."""
    face = getattr(address, "ipv4_mapped", None) or address  # nothing but another spelling
    return any(face in network for network in private) or _is_public(_face(face))


def literal(host: str) -> Address | None:
    """The address, where a URL's host is one; a name is judged when it is resolved."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _face(address: Address) -> Address:
    """The address, or the one that a translator makes of it."""
    if isinstance(address, IPv6Address) and address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    # `is_global` alone would let multicast, site-local and reserved IPv6 addresses pass. Teredo
    # (2001::/32) and local NAT64 (64:ff9b:1::/48) are not global, or reserved.
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    special = any(address in network for network in _SPECIAL)
    return address.is_global and not (
        special or address.is_multicast or address.is_reserved or site_local
    )
