"""Where a webhook may go: the public internet, and what the operator names."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from api.webhooks.addresses import is_allowed, literal
from shared.webhooks import parse_networks


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(ip_address(address), ())


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",  # metadata of a cloud
        "100.64.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%1",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        # Those that lead to an IPv4 address.
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::",
        "2002:808:808::1",
        # Releases of Python differ in whether these are global.
        "192.0.0.9",
        "2001:20::1",
        "3fff::1",
        "2001:0:7f00:1::",
    ],
)
def test_other_addresses_are_not(address: str) -> None:
    assert not is_allowed(ip_address(address), ())


def test_the_operator_names_networks() -> None:
    private = parse_networks("127.0.0.1/32, fd00::/8")
    for address in ("127.0.0.1", "::ffff:127.0.0.1", "fd00::1"):
        assert is_allowed(ip_address(address), private)
    for address in ("127.0.0.2", "fe80::1", "2002:7f00:1::1", "64:ff9b::127.0.0.1"):
        assert not is_allowed(ip_address(address), private)


def test_only_an_address_is_judged_before_it_is_resolved() -> None:
    assert literal("127.0.0.1") == ip_address("127.0.0.1")
    assert literal("::1") == ip_address("::1")
    assert literal("localhost") is literal("127.1") is None
